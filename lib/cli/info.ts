/** `sidetune info`: what runs here. For bug reports, too. */

import type { Command } from 'commander';
import { host } from '../../bench';
import { type CpuInfo, Device } from '../device';
import { bytes } from './format';
import { jsonOption, left, present, version } from './output';

interface Fact {
  fact: string;
  value: string;
}

export function addInfoCommand(program: Command): void {
  const figures = [left<Fact>('fact', ({ fact }) => fact), left<Fact>('value', ({ value }) => value)];
  program
    .command('info')
    .description('versions, processor, SIMD, GEMM library, threads, memory')
    .option(...jsonOption)
    .action(async ({ json }: { json?: string }) => {
      await using device = await Device.open('cpu');
      present(
        'info',
        { host: host(device), rows: factsOf(device.info() as CpuInfo, device.memory().limitBytes) },
        { figures },
        json,
      );
    });
}

function factsOf(info: CpuInfo, limitBytes: number): Fact[] {
  const facts: Record<string, string> = {
    sidetune: version,
    Node: process.version,
    platform: `${process.platform}-${process.arch}`,
    processor: info.processor,
    SIMD: info.simd,
    GEMM: info.gemm,
    'bf16 products': info.bf16Gemm ? 'native' : 'computed in f32',
    'int8 products': info.int8Levels === 255 ? 'tokens in 8 bits' : 'tokens in 7 bits (no VNNI)',
    threads: `${info.threads} of ${info.cores} cores`,
    memory: bytes(limitBytes),
    ...Object.fromEntries(cudaFacts()),
  };
  return Object.entries(facts).map(([fact, value]) => ({ fact, value }));
}

// Each CUDA device, or why there is none.
function cudaFacts(): [string, string][] {
  return Device.list()
    .filter(({ name }) => name !== 'cpu')
    .map(({ name, reason }) => [name, reason ?? 'can be opened']);
}
