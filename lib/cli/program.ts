/** The command line as a whole. */

import { Command, Help, type Option } from 'commander';
import { addAdaptersCommand } from './adapters';
import { addBenchCommands } from './bench';
import { addEvaluateCommand, addPredictCommand } from './classify';
import { addCompareCommand } from './compare';
import { addInfoCommand } from './info';
import { version } from './output';
import { catchSignals, exitCode, report, showProgress } from './session';
import { addTrainCommand } from './train';

/** Runs a command line of `sidetune` and returns the status to exit with. */
export function run(args: readonly string[]): Promise<number> {
  return runProgram(program(), args);
}

/** Runs a command line of a program, which gets the options and manners that all programs have, and returns the status to exit with. */
export async function runProgram(root: Command, args: readonly string[]): Promise<number> {
  catchSignals();
  addManners(root);
  // `sidetune … | head` is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  });
  try {
    await root.parseAsync(args, { from: 'user' });
    return exitCode();
  } catch (error) {
    report(error, args.includes('--debug'));
    return exitCode(error);
  }
}

function program(): Command {
  const root = new Command('sidetune')
    .description('Fine-tunes frozen vision transformers through a small side network.')
    .version(version);
  addTrainCommand(root);
  addCompareCommand(root);
  addEvaluateCommand(root);
  addPredictCommand(root);
  addAdaptersCommand(root);
  addBenchCommands(root);
  addInfoCommand(root);
  return root;
}

function addManners(root: Command): void {
  root
    .option('--no-progress', 'show nothing while working')
    .option('--debug', 'show where an error came from')
    .hook('preAction', (command) => showProgress(command.opts<{ progress: boolean }>().progress));
  for (const command of family(root)) {
    command.exitOverride().configureHelp({ showGlobalOptions: true, optionDescription: described });
    command.configureOutput({ outputError: (text, write) => write(withKnownNames(command, text)) });
  }
}

/** What help says of an option: where it must be given, too. */
function described(option: Option): string {
  const text = new Help().optionDescription(option);
  return option.mandatory ? `${text} (required)` : text;
}

function family(command: Command): Command[] {
  return [command, ...command.commands.flatMap(family)];
}

/** Commander's sentence about a name that it does not know, with the names that it does. */
function withKnownNames(command: Command, text: string): string {
  const [, what] = /unknown (option|command)/.exec(text) ?? [];
  if (what === undefined) return text;
  const names =
    what === 'command'
      ? command.commands.map((child) => child.name())
      : [...command.createHelp().visibleOptions(command), ...command.createHelp().visibleGlobalOptions(command)].map(
          ({ long }) => long,
        );
  return `${text.trimEnd()}\nknown: ${names.join(', ')}\n`;
}
