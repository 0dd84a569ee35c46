/** `sidetune adapters`: what lies in a folder of adapters. */

import { basename } from 'node:path';
import type { Command } from 'commander';
import { host } from '../../bench';
import { Device } from '../device';
import { type AdapterListing, listAdapters } from '../petl';
import { bytes, count } from './format';
import { jsonOption, left, present, right } from './output';
import { notice } from './session';

/** Names of classes in a row of the table. */
const shownLabels = 4;

const figures = [
  left<AdapterListing>('file', ({ path }) => basename(path)),
  left<AdapterListing>('method', ({ method }) => method),
  left<AdapterListing>('options', ({ options }) => Object.entries(options).map(settingText).join(' ') || '-'),
  left<AdapterListing>('backbone', ({ backbone }) => backbone.name),
  left<AdapterListing>('fingerprint', ({ backbone }) => backbone.fingerprint),
  right<AdapterListing>('classes', ({ classes }) => String(classes)),
  left<AdapterListing>('labels', ({ labels }) => labelText(labels)),
  right<AdapterListing>('parameters', ({ parameters }) => count(parameters)),
  right<AdapterListing>('size', (listing) => bytes(listing.bytes)),
];

export function addAdaptersCommand(program: Command): void {
  program
    .command('adapters')
    .description('the adapters in a folder: method, options, backbone, classes, size; from the headers of the files')
    .argument('<dir>', 'the folder')
    .option(...jsonOption)
    .action(async (folder: string, { json }: { json?: string }) => {
      const rows = await listAdapters(folder);
      if (rows.length === 0) notice(`no adapter in ${folder}: none of its files is one that 'sidetune train' writes`);
      await using device = await Device.open('cpu');
      present('adapters', { host: host(device), rows }, { figures }, json);
    });
}

function settingText([name, value]: [string, unknown]): string {
  return `${name}=${typeof value === 'object' ? JSON.stringify(value) : String(value)}`;
}

function labelText(labels: readonly string[] | undefined): string {
  if (!labels) return '-';
  return [...labels.slice(0, shownLabels), ...(labels.length > shownLabels ? ['…'] : [])].join(', ');
}
