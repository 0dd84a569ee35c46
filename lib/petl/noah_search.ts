/** NOAH's search: an evolution of subnets, each judged by the supernet that has been trained with all of them. */

import { ArgumentError } from '../errors';
import { type NoahSizes, type noahModules, noahParameterCount } from './noah';

/** Numbers from 0 to below 1, one after another. */
export type Draw = () => number;

/** What subnets are made of. */
export interface NoahSpace {
  /** Blocks of the backbone. */
  depth: number;
  /** Sizes that a module may have. Default [1, 5, 10]. */
  sizes?: readonly number[];
  /** In how many blocks from the first a module may stand; it is absent from the others. Default: each quarter of the depth. */
  depths?: readonly number[];
}

export interface NoahSearchOptions extends NoahSpace {
  /** Width d of the backbone; counts parameters. */
  dim: number;
  /** How good a subnet is; more is better. */
  fitness(sizes: NoahSizes): Promise<number>;
  random: Draw;
  /** Most trained numbers of a subnet. Default 640,000. */
  budget?: number;
  /** Default 15. */
  generations?: number;
  /** Subnets of a generation. Default 50. */
  population?: number;
  /** The best subnets so far, from which the next generation comes. Default 10. */
  parents?: number;
  /** Subnets of a generation that come from mutation, and as many from crossover. Default half of the population. */
  offspring?: number;
  /** Probability with which a mutation touches a module. Default 0.2. */
  mutation?: number;
  /** Probability with which a touched module is given another depth. Default 0.4. */
  depthMutation?: number;
  signal?: AbortSignal;
  onProgress?(generation: number, generations: number, best: NoahCandidate): void;
}

export interface NoahCandidate {
  sizes: NoahSizes;
  fitness: number;
  parameters: number;
}

type Module = (typeof noahModules)[number];

function pick<T>(random: Draw, list: readonly T[]): T {
  return list[Math.floor(random() * list.length)]!;
}

function spaceOf({ depth, sizes = [1, 5, 10], depths }: NoahSpace): Required<NoahSpace> {
  const quarters = [1, 2, 3, 4].map((quarter) => Math.max(1, Math.round((quarter * depth) / 4)));
  return { depth, sizes, depths: depths ?? [...new Set(quarters)] };
}

/** A module in the first blocks of a drawn number, with a drawn size in each. */
function drawModule(random: Draw, { depth, sizes, depths }: Required<NoahSpace>): number[] {
  const present = pick(random, depths);
  return Array.from({ length: depth }, (_, block) => (block < present ? pick(random, sizes) : 0));
}

/** A subnet drawn from all there are: what a training step of the supernet uses. */
export function drawNoahSizes(random: Draw, space: NoahSpace): NoahSizes {
  const complete = spaceOf(space);
  return {
    prompt: drawModule(random, complete),
    lora: drawModule(random, complete),
    adapter: drawModule(random, complete),
  };
}

/**
 * Looks for the best subnet within the budget: the first generation is drawn, later ones are mutations and crossovers of the best so far, filled up with
 * drawn ones. No subnet is judged twice.
 * @returns the best one. When stopped by `signal`, the best so far.
 * @throws ArgumentError when no subnet that is drawn fits the budget
 */
export async function searchNoah(options: NoahSearchOptions): Promise<NoahCandidate> {
  const { dim, random, fitness, budget = 640_000, generations = 15, population = 50, parents = 10 } = options;
  const { offspring = Math.floor(population / 2), mutation = 0.2, depthMutation = 0.4 } = options;
  const space = spaceOf(options);
  const judged = new Map<string, NoahCandidate>();
  const attempts = 10 * population; // a space may hold fewer subnets than asked for

  const fresh = (sizes: NoahSizes, generation: ReadonlyMap<string, NoahSizes>): boolean => {
    const key = JSON.stringify(sizes);
    return !judged.has(key) && !generation.has(key) && noahParameterCount(dim, sizes) <= budget;
  };
  const fill = (generation: Map<string, NoahSizes>, count: number, make: () => NoahSizes): void => {
    for (let tried = 0; generation.size < count && tried < attempts; tried++) {
      const sizes = make();
      if (fresh(sizes, generation)) generation.set(JSON.stringify(sizes), sizes);
    }
  };
  const best = (): NoahCandidate[] => [...judged.values()].sort((a, b) => b.fitness - a.fitness).slice(0, parents);

  const mutate = (from: NoahSizes): NoahSizes => {
    const changed = (module: Module): number[] => {
      const list = [...from[module]];
      if (random() >= mutation || random() >= depthMutation) return list;
      // Longer: more blocks with drawn sizes. Shorter: the last ones go. Sizes that are there stay.
      const [present, wanted] = [list.filter((size) => size > 0).length, pick(random, space.depths)];
      return list.map((size, block) => (block >= wanted ? 0 : block < present ? size : pick(random, space.sizes)));
    };
    return { prompt: changed('prompt'), lora: changed('lora'), adapter: changed('adapter') };
  };
  const cross = (a: NoahSizes, b: NoahSizes): NoahSizes => {
    const either = (module: Module): number[] => [...pick(random, [a, b])[module]];
    return { prompt: either('prompt'), lora: either('lora'), adapter: either('adapter') };
  };

  for (let number = 1; number <= generations; number++) {
    const generation = new Map<string, NoahSizes>();
    const elders = best().map(({ sizes }) => sizes);
    if (elders.length > 0) {
      fill(generation, offspring, () => mutate(pick(random, elders)));
      fill(generation, 2 * offspring, () => cross(pick(random, elders), pick(random, elders)));
    }
    fill(generation, population, () => drawNoahSizes(random, space));
    for (const [key, sizes] of generation) {
      if (options.signal?.aborted && judged.size > 0) return best()[0]!;
      judged.set(key, { sizes, fitness: await fitness(sizes), parameters: noahParameterCount(dim, sizes) });
    }
    if (judged.size === 0) {
      throw new ArgumentError(`searchNoah: no subnet fits 'budget' of ${budget} parameters`, {
        kernel: 'searchNoah',
        argument: 'budget',
        got: String(budget),
      });
    }
    options.onProgress?.(number, generations, best()[0]!);
  }
  return best()[0]!;
}
