"""A vision transformer in plain PyTorch, for bench/peers/torch.ts.

Speaks JSON lines. The first one on standard input says what to be: a task ("inference" or "training"), a dtype, files with weights and images; it is
answered with what this PyTorch is. Each line after it asks for passes over the first images and is answered with their seconds and numbers.
Ends when standard input does.
"""

import json
import resource
import signal
import sys
import time

signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C here, too; the parent ends this process in order

import torch
import torch.nn.functional as F


def read_safetensors(path):
    """The f32 tensors of a file by name, each in memory of its own."""
    tensors = {}
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.tell()
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            assert entry["dtype"] == "F32", f"{path}: '{name}' is {entry['dtype']}, expected F32"
            begin, end = entry["data_offsets"]
            file.seek(data + begin)
            numbers = torch.frombuffer(bytearray(file.read(end - begin)), dtype=torch.float32)
            tensors[name] = numbers.reshape(entry["shape"]).clone()  # aligned as PyTorch likes it
    return tensors


def block(x, w, name, heads, eps):
    """A pre-norm block on tokens [B, N, d]."""
    batch, tokens, dim = x.shape

    def norm(which, x):
        return F.layer_norm(x, (dim,), w[f"{name}.{which}.weight"], w[f"{name}.{which}.bias"], eps)

    def linear(which, x):
        return F.linear(x, w[f"{name}.{which}.weight"], w[f"{name}.{which}.bias"])

    qkv = linear("attn.qkv", norm("norm1", x)).reshape(batch, tokens, 3, heads, dim // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
    x = x + linear("attn.proj", attended)
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


def side_inject(h, w, grid, beta):
    """theta(h) = h sigmoid(beta h); DTL+ convolves the patches, CLS passes by."""
    added = h * torch.sigmoid(beta * h)
    kernel = w.get("side.conv.weight")
    if kernel is None:
        return added
    batch, _, dim = added.shape
    patches = added[:, 1:].transpose(1, 2).reshape(batch, dim, grid, grid)
    patches = F.conv2d(patches, kernel, padding="same", groups=dim)
    return torch.cat([added[:, :1], patches.flatten(2).transpose(1, 2)], 1)


def forward(images, w, config, pool, side=None):
    """Logits [B, classes], read at CLS or from the mean of the patches; `side` has startBlock and beta of DTL, whose layers are among the weights."""
    grid = config["imageSize"] // config["patchSize"]
    eps = config["layerNormEps"]
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=config["patchSize"])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    h = 0.0
    for i in range(config["depth"]):
        if side:
            h = h + x @ w[f"side.{i}.a"] @ w[f"side.{i}.c"]
        x = block(x, w, f"blocks.{i}", config["heads"], eps)
        if side and i + 1 >= side["startBlock"]:
            x = x + side_inject(h, w, grid, side["beta"])
    x = x[:, 0] if pool == "cls" else x[:, 1:].mean(1)
    feature = F.layer_norm(x, (config["dim"],), w["norm.weight"], w["norm.bias"], eps)
    return F.linear(feature, w["head.weight"], w["head.bias"])


class Inference:
    def __init__(self, setup, weights, images):
        dtype = torch.bfloat16 if setup["dtype"] == "bf16" else torch.float32
        self.config = setup["config"]
        self.pool = setup["pool"]
        self.weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.images = images.to(dtype)

    @torch.inference_mode()
    def run(self, batch, passes):
        images = self.images[:batch]
        start = time.perf_counter()
        for _ in range(passes):
            logits = forward(images, self.weights, self.config, self.pool)
        return time.perf_counter() - start, logits.float().flatten().tolist()


class Training:
    """Steps of AdamW; bf16 is autocast over f32 weights."""

    def __init__(self, setup, weights, images):
        self.setup = setup
        self.weights = weights
        self.images = images
        self.labels = torch.tensor(setup["labels"])
        for parameter in setup["parameters"]:
            weights[parameter["name"]].requires_grad_()
        adamw = setup["adamw"]
        groups = [
            {
                "params": [weights[one["name"]] for one in setup["parameters"] if one["decay"] == decay],
                "weight_decay": adamw["weightDecay"] if decay else 0.0,
            }
            for decay in (True, False)
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=adamw["lr"], betas=adamw["betas"], eps=adamw["eps"], fused=True
        )

    def step(self, batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.setup["dtype"] == "bf16"):
            config, pool, side = (self.setup[name] for name in ("config", "pool", "side"))
            logits = forward(self.images[:batch], self.weights, config, pool, side)
        loss = F.cross_entropy(logits.float(), self.labels[:batch])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def run(self, batch, passes):
        start = time.perf_counter()
        losses = [self.step(batch) for _ in range(passes)]
        return time.perf_counter() - start, losses


def answer(message):
    print(json.dumps(message, allow_nan=False), flush=True)


def main():
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    task = {"inference": Inference, "training": Training}[setup["task"]]
    contender = task(setup, read_safetensors(setup["weights"]), read_safetensors(setup["images"])["images"])
    answer({"version": torch.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        seconds, values = contender.run(request["batch"], request["passes"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer({"seconds": seconds, "values": values, "residentPeakBytes": peak})


main()
