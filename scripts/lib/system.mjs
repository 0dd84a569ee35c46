// What the machine must bring: Linux, a recent Node, a C++ compiler, and the libraries and tools that apt can install.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { runLogged, SetupError } from './steps.mjs';

// The oldest Node on which the test tools run (the published package itself starts earlier: see "engines").
const OLDEST_NODE = [20, 19];
const OLDEST_NODE_22 = [22, 12];

// Each need is met when one of its commands or its header is there; otherwise its package is installed.
const NEEDS = [
  { package: 'cmake', commands: ['cmake'] },
  { package: 'ninja-build', commands: ['ninja', 'make'] },
  { package: 'libdnnl-dev', header: 'dnnl.hpp' },
  { package: 'libhwy-dev', header: 'hwy/highway.h' },
];

export function hasCommand(name) {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      const file = join(folder, name);
      accessSync(file, constants.X_OK);
      return statSync(file).isFile();
    } catch {
      return false;
    }
  });
}

function hasHeader(name) {
  const multiarch = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }[process.arch];
  const folders = ['/usr/include', '/usr/local/include', `/usr/include/${multiarch}`];
  for (const variable of ['CPATH', 'CPLUS_INCLUDE_PATH'])
    folders.push(...(process.env[variable] ?? '').split(delimiter));
  for (const prefix of (process.env.CMAKE_PREFIX_PATH ?? '').split(delimiter)) folders.push(join(prefix, 'include'));
  return folders.some((folder) => folder && existsSync(join(folder, name)));
}

/** Throws SetupError for what this script cannot put right by itself. */
export function checkMachine() {
  if (process.platform !== 'linux') throw new SetupError(`sidetune builds on Linux only; this is ${process.platform}.`);
  const [major, minor] = process.versions.node.split('.').map(Number);
  const [oldestMajor, oldestMinor] = major > 20 ? OLDEST_NODE_22 : OLDEST_NODE;
  if (major < oldestMajor || (major === oldestMajor && minor < oldestMinor)) {
    throw new SetupError(
      `Node ${process.versions.node} is too old to build and test sidetune; Node ${OLDEST_NODE.join('.')} or later of 20, or ${OLDEST_NODE_22.join('.')} and up, is needed.`,
    );
  }
  const compilers = [process.env.CXX?.split(' ')[0], 'c++', 'g++', 'clang++'];
  if (!compilers.some((name) => name && (name.includes('/') ? existsSync(name) : hasCommand(name)))) {
    throw new SetupError('No C++ compiler was found; install one with: sudo apt-get install g++');
  }
}

/** Installs what is missing of NEEDS; touches neither apt nor the network when all is there. */
export async function ensureSystemPackages() {
  const missing = NEEDS.filter((need) => !(need.header ? hasHeader(need.header) : need.commands.some(hasCommand)));
  if (missing.length === 0) return false;

  const names = missing.map((need) => need.package);
  const install = ['apt-get', 'install', '-y', '--no-install-recommends', ...names];
  if (!hasCommand('apt-get')) {
    throw new SetupError(
      `This machine has no apt-get; install what these Debian packages hold, then run again: ${names.join(' ')}`,
    );
  }
  const prefix = rootPrefix();
  if (!prefix) {
    throw new SetupError(`Missing system packages; install them, then run again: sudo ${install.join(' ')}`);
  }
  const apt = (args) => {
    const [command, ...rest] = [...prefix, ...args, '-q', '-o', 'DPkg::Lock::Timeout=120'];
    return runLogged(command, rest, 'apt');
  };
  try {
    await apt(install);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    await apt(['apt-get', 'update']); // package lists are missing on a fresh machine, and grow stale on an old one
    await apt(install);
  }
  return true;
}

/** The words before a command that runs as root without asking, or undefined when there is no such way. */
function rootPrefix() {
  const quiet = ['env', 'DEBIAN_FRONTEND=noninteractive'];
  if (process.getuid() === 0) return quiet;
  const sudo = hasCommand('sudo') && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0;
  return sudo ? ['sudo', '-n', ...quiet] : undefined;
}
