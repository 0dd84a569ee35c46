import type { KernelBench } from '../harness';

const prompts = 10;

export const promptBenches: KernelBench[] = [
  {
    kernel: 'promptForward',
    label: 'insert',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens, width]),
      prompt: tensor([prompts, width], 'f32'),
      at: 1,
    }),
  },
  {
    kernel: 'promptForward',
    label: 'replace',
    direction: 'forward',
    args: ({ tensor, batch, tokens, width }) => ({
      x: tensor([batch, tokens + prompts, width]),
      prompt: tensor([prompts, width], 'f32'),
      at: 1,
      replaced: prompts,
    }),
  },
  {
    kernel: 'promptBackward',
    label: 'replace',
    direction: 'backward',
    args: ({ tensor, batch, tokens, width }) => ({
      gradOut: tensor([batch, tokens + prompts, width]),
      gradX: tensor([batch, tokens + prompts, width]),
      gradPrompt: tensor([prompts, width], 'f32'),
      prompts,
      at: 1,
      replaced: prompts,
    }),
  },
];
