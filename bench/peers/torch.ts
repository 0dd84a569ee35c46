/** PyTorch as a contender: torch_vit.py in a process of its own, where a Python with PyTorch is there. */

import { type ChildProcessByStdio, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { promisify } from 'node:util';
import { ArgumentError, DeviceError } from '../../lib/errors';
import type { VitConfig } from '../../lib/models';
import type { AdamW } from '../../lib/optim';
import type { Compute } from '../harness';
import { type Answer, type Contender, nameOf, type PeerPool } from './contender';
import { peersFile } from './packages';

/** The environment's way to say `--python`. */
export const pythonVariable = 'SIDETUNE_PEER_PYTHON';

/** What a run without PyTorch says. */
export const withoutTorch = `note: python3 cannot import torch here: going on without PyTorch, and without training; --python or ${pythonVariable} names a Python that can`;

/**
 * A Python that can import torch: the one that was asked for, else `python3` if it can.
 * @param asked - a command or path
 * @returns undefined where none was asked for and `python3` cannot
 * @throws ArgumentError when the one that was asked for cannot
 */
export async function findPython(
  asked: string | undefined = process.env[pythonVariable] || undefined,
): Promise<string | undefined> {
  const python = asked ?? 'python3';
  try {
    await promisify(execFile)(python, ['-c', 'import torch']);
    return python;
  } catch (cause) {
    if (asked === undefined) return undefined;
    const reason = lastLine(String((cause as { stderr?: string }).stderr || (cause as Error).message));
    throw new ArgumentError(`peers: 'python' is '${asked}', expected a Python that can import torch (${reason})`, {
      kernel: 'peers',
      argument: 'python',
      got: asked,
      cause,
    });
  }
}

/** Safetensors files that torch_vit.py reads: all tensors of the model, and `images` [any, 3, H, W]. */
export interface TorchFiles {
  weights: string;
  images: string;
}

/** What torch_vit.py is told first. */
export interface TorchSetup extends TorchFiles {
  task: 'inference' | 'training';
  dtype: Compute;
  threads: number;
  config: VitConfig;
  pool: PeerPool;
}

export interface TorchTrainingSetup extends TorchSetup {
  task: 'training';
  labels: number[];
  parameters: { name: string; decay: boolean }[];
  adamw: Pick<AdamW, 'lr' | 'betas' | 'eps' | 'weightDecay'>;
  /** Of DTL and DTL+; null for methods without side layers. */
  side: { startBlock: number; beta: number } | null;
}

export class Torch implements Contender {
  readonly software = 'torch';
  version = '';
  readonly dtype: Compute;
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #answers: AsyncIterator<string>;
  readonly #closed: Promise<unknown>;
  #stderr = '';

  private constructor(python: string, { dtype }: TorchSetup) {
    this.dtype = dtype;
    this.#child = spawn(python, [peersFile('torch_vit.py')], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#closed = once(this.#child, 'close');
    this.#answers = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    this.#child.stdin.on('error', () => {}); // it has ended, and the answer that does not come says why
  }

  /**
   * Starts the process; its files are read when this resolves.
   * @throws DeviceError with the last line that Python wrote when it fails
   */
  static async open(python: string, setup: TorchSetup | TorchTrainingSetup): Promise<Torch> {
    const torch = new Torch(python, setup);
    const { version } = (await torch.#ask(setup)) as { version: string };
    torch.version = version;
    return torch;
  }

  async run(batch: number, passes: number): Promise<Answer> {
    return (await this.#ask({ batch, passes })) as Answer;
  }

  async close(): Promise<void> {
    this.#child.stdin.end();
    await this.#closed;
  }

  async #ask(message: object): Promise<object> {
    this.#child.stdin.write(`${JSON.stringify(message)}\n`);
    const { value, done } = await this.#answers.next();
    if (!done) return JSON.parse(value);
    await this.#closed;
    const reason = lastLine(this.#stderr) || 'it said nothing';
    throw new DeviceError(`peers: the process of '${nameOf(this)}' ended: ${reason}`, { kernel: 'peers' });
  }
}

function lastLine(text: string): string {
  return text.trimEnd().split('\n').at(-1)!;
}
