// Everything that the addon exports, called with everything that it does not expect. Calls may throw or work; the process must live, and what it computes
// afterwards must be right. The seed is the first argument.
const { addon, Device, example, layerNorm, print, SidetuneError } = require('./sidetune.cjs');

let state = Number(process.argv[2]);
function random(below) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}
const pick = (list) => list[random(list.length)];

let device; // handles of it are among the arguments
let handles = [];
const kinds = ['weights', 'side', 'activations', 'gradients', 'optimizer', 'workspace', 'data'];

function open() {
  device = addon.deviceOpen('cpu', { guards: true, threads: 1, memoryLimit: 1e9 });
  handles = [[4, 8], [8], [4], [1], [2, 4, 8], [3, 8], [2, 2, 2, 2, 2, 2], []].flatMap((shape) =>
    ['f32', 'f32', 'bf16', 'i32', 'u8'].map((dtype) => {
      const tensor = addon.tensorCreate(device, shape, dtype, 'data', 'plain');
      addon.tensorWrite(tensor, new Uint8Array(addon.tensorDescribe(tensor).bytes));
      return tensor;
    }),
  );
  handles.push(addon.tensorCreate(device, [8, 8], 'f32', 'weights', 'packed'));
}

const otherDevice = addon.deviceOpen('cpu', { plan: true });
const closedDevice = addon.deviceOpen('cpu', {});
const orphan = addon.tensorCreate(closedDevice, [4], 'f32', 'data', 'plain');
addon.deviceClose(closedDevice);
const disposed = addon.tensorCreate(otherDevice, [4], 'f32', 'data', 'plain');
addon.tensorDispose(disposed);
const foreign = addon.tensorCreate(otherDevice, [4, 8], 'f32', 'data', 'plain');
const throwing = new Proxy(
  {},
  {
    get() {
      throw new Error('get');
    },
    ownKeys() {
      throw new Error('ownKeys');
    },
  },
);

const odd = () => [
  undefined,
  null,
  true,
  0,
  -1,
  1.5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  2 ** 53,
  -(2 ** 60),
  '',
  'cpu',
  'f32',
  'plain',
  'x'.repeat(1000),
  Symbol('s'),
  10n,
  [],
  [1, 2],
  [1, 2, 3, 4, 5, 6, 7],
  [-1],
  [2 ** 40],
  [Symbol('s')],
  new Array(5),
  {},
  { length: 3 },
  { valueOf: () => 3, toString: () => 'cpu' },
  Object.create(null),
  () => {},
  class {},
  new Date(),
  new Map(),
  new Uint8Array(4),
  new Float32Array(32),
  new Float64Array(3),
  new BigInt64Array(2),
  new DataView(new ArrayBuffer(8)),
  new ArrayBuffer(16),
  new SharedArrayBuffer(16),
  Buffer.alloc(128),
  Promise.resolve(1),
  throwing,
  new Proxy([], {}),
  otherDevice,
  closedDevice,
  orphan,
  disposed,
  foreign,
  Object.create(handles[0]),
  Object.assign({}, handles[0]),
  new Proxy(handles[0], {}),
  Object.create(device),
  { handle: handles[0] },
];

// An object that disposes or closes while it is being read.
function treacherous(value) {
  const result = {};
  Object.defineProperty(result, pick(['x', 'weight', 'bias', 'out', 'a', 'b', 'save', 'plan', 'wanted']), {
    enumerable: true,
    get() {
      if (random(2)) addon.tensorDispose(pick(handles));
      else if (random(20) === 0) addon.deviceClose(device);
      return value;
    },
  });
  return result;
}
function growing() {
  const shape = [2, 2];
  Object.defineProperty(shape, 0, {
    get() {
      for (let i = 0; i < 100; i++) shape.push(1);
      return 2;
    },
  });
  return shape;
}

const value = () => {
  switch (random(8)) {
    case 0:
    case 1:
      return pick(handles);
    case 2:
      return device;
    case 3:
      return treacherous(pick(handles));
    case 4:
      return growing();
    default:
      return pick(odd());
  }
};

const descriptions = Object.fromEntries(
  Object.entries(addon.kernels).map(([name, kernel]) => [name, JSON.parse(kernel.describe())]),
);

function option(field) {
  switch (field.type) {
    case 'number':
      return pick([0, 0.5, 1, 1e-6, -1, 1e30, Number.NaN]);
    case 'integer':
      return pick([0, 1, 2, 3, 4, 8, -1, 2 ** 40, 1.5]);
    case 'integers':
      return pick([[1, 1], [2, 2], [1, 3], [2 ** 30, 2 ** 30], [0, 0], [1]]);
    case 'choice':
      return pick(field.choices.split(' '));
    default:
      return pick([true, false]);
  }
}

// Arguments as a kernel wants them, mostly.
function kernelArguments(name) {
  const args = {};
  for (const field of descriptions[name].fields) {
    if (random(8) === 0) continue;
    if (random(30) === 0) args[field.name] = value();
    else if (field.role === 'option') args[field.name] = option(field);
    else if (field.role === 'out' || field.role === 'saved') {
      if (random(4) === 0) args[field.name] = pick(handles);
    } else args[field.name] = field.list ? Array.from({ length: random(4) }, () => pick(handles)) : pick(handles);
  }
  if (random(20) === 0) args[pick(['xx', 'constructor', '__proto__'])] = value();
  if (random(20) === 0) Object.setPrototypeOf(args, treacherous(pick(handles)));
  return args;
}
const flags = () => ({
  save: pick([true, false, value()]),
  poison: true,
  kind: pick([...kinds, 'x', undefined, 3]),
  wanted: pick([undefined, { gradX: false, out: false }, treacherous(true), value()]),
});

const functions = Object.keys(addon).filter((name) => name !== 'kernels');
const counts = { calls: 0, worked: 0, threw: 0 };

function attempt(call) {
  counts.calls++;
  try {
    const result = call();
    if (result instanceof Promise) result.catch(() => {});
    counts.worked++;
    return result;
  } catch (error) {
    counts.threw++;
    if (!(error instanceof Error)) throw new Error(`thrown: ${String(error)}`);
    return undefined;
  }
}

// A wrong first argument is refused by every function that takes a handle, with our own error.
function refusals() {
  const wrong = odd().filter((item) => ![otherDevice, closedDevice, orphan, disposed, foreign].includes(item));
  const failures = [];
  for (const name of functions) {
    const takes =
      name.startsWith('tensor') && name !== 'tensorCreate'
        ? 'tensor'
        : name.startsWith('device') || name === 'tensorCreate'
          ? 'device'
          : '';
    if (!takes || ['deviceOpen', 'deviceCount'].includes(name)) continue;
    for (const item of [...wrong, takes === 'tensor' ? device : handles[0]]) {
      try {
        addon[name](item, [1], 'f32', 'data', 'plain');
        failures.push(`${name} took ${String(Object.prototype.toString.call(item))}`);
      } catch (error) {
        if (!(error instanceof SidetuneError) || error.code !== 'SIDETUNE_ARGUMENT') failures.push(`${name}: ${error}`);
      }
    }
  }
  for (const name of Object.keys(addon.kernels)) {
    for (const item of [undefined, null, 3, 'x', Symbol('s'), {}, [], handles[0], device]) {
      for (const call of [addon.kernels[name], addon.kernels[name].measure]) {
        try {
          call(item);
          failures.push(`${name} took ${String(Object.prototype.toString.call(item))}`);
        } catch (error) {
          if (!(error instanceof SidetuneError)) failures.push(`${name}: ${error}`);
        }
      }
    }
  }
  for (const item of [undefined, null, 3, {}, { ArgumentError: class {} }]) {
    try {
      addon.initialize(item);
      failures.push('initialize took something');
    } catch (error) {
      if (!(error instanceof SidetuneError)) failures.push(`initialize: ${error}`);
    }
  }
  return failures;
}

async function main(rounds) {
  open();
  const failures = refusals();
  for (let round = 0; round < rounds; round++) {
    if (handles.every((handle) => addon.tensorDisposed(handle)) || random(200) === 0) {
      const guards = attempt(() => addon.deviceCheckGuards(device));
      const problem = guards && (await guards.catch(() => null));
      if (problem) failures.push(problem);
      attempt(() => addon.deviceClose(device));
      open();
    }
    if (random(3) === 0) {
      const name = pick(functions);
      if (name === 'deviceOpen' && random(10)) continue; // each starts a thread
      const args = Array.from({ length: random(6) }, value);
      const result = attempt(() => addon[name](...args));
      if (name === 'deviceOpen' && result) addon.deviceClose(result);
    } else {
      const name = pick(Object.keys(addon.kernels));
      const args = kernelArguments(name);
      if (random(10) === 0) attempt(() => addon.kernels[name].measure(args));
      else if (random(50) === 0) attempt(() => Reflect.construct(addon.kernels[name], [args, flags()]));
      else attempt(() => addon.kernels[name](args, flags()));
    }
  }
  // The device may have been closed by a call: then it says so at once instead of by its promise.
  const idle = attempt(() => addon.deviceSynchronize(device));
  await idle?.catch((error) => {
    if (!(error instanceof SidetuneError)) failures.push(String(error));
  });

  const fresh = await Device.open('cpu', { guards: true });
  const { x, weight, bias } = example(fresh);
  const numbers = await layerNorm(x, weight, bias).read();
  if (!numbers.every((number) => number === 1)) failures.push('a wrong result afterwards');
  const problem = await fresh.checkGuards();
  if (problem) failures.push(problem);
  print({ failures: failures.slice(0, 20), ...counts });
}

main(Number(process.argv[3] ?? 20000));
