"""What ResProto-FD's training step costs beside plain fine-tuning of CLIP: time and peak memory.

    python benchmarks/grp_overhead.py

Four steps on the same model and batch, taken in turn in one process:

- plain: fine-tuning of CLIP's image tower with the same text handling: text features a buffer, cosine logits,
  cross-entropy;
- residual: ResProto-FD without its memory, that is with the residual loss (RL) alone;
- resproto_fd: ResProto-FD collecting prototypes (RL + GRP);
- released: the recipe of the released code, from its description: model and optimiser deep-copied at every step, a
  second forward and two backwards on the copy, the gradient norm over all parameters, all prompts encoded anew.

Peak memory is that of all tensors alive at once, by the allocator's own count: the same to the byte in each run.

MFU is the share of the device's peak that a step uses: the floating-point operations of a plain step's matrix products
over the step's time and the peak, which is given, in a table of cards, or else measured by a large matrix product.
"""

import copy
from argparse import Namespace
from collections.abc import Callable
from itertools import accumulate

import torch
from measure import add_model_arguments, autocast, backbone, in_turn, make_parser, parse, report
from numpy import median
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from resproto_fd.configs.schema import OptimizerConfig
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.clip_tower import FORGED_PROMPTS, REAL_PROMPTS
from resproto_fd.detectors.parts.kmeans import kmeans
from resproto_fd.losses.residual import residual_features, similarity_logits, temperature
from resproto_fd.trainer.optimizers import make_optimizer

KINDS = ("plain", "residual", "resproto_fd", "released")
PEAK_BF16_TFLOPS = {
    "H200 NVL": 835,
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100 80GB HBM3": 989,
    "A100": 312,
    "RTX 4090": 165.2,
}
"""Dense, summed in float32, as the maker says. The first name that is part of the card's name counts."""


class Subject:
    """A model, its optimiser, a batch, and the kinds of step on them.

    Args:
        args: See `measure.parse`.
        batch: Images a step, one real to four forged.
        text_tower: Keep it: the released recipe encodes the prompts at every step.
    """

    def __init__(self, args: Namespace, batch: int, text_tower: bool = False):
        torch.manual_seed(0)
        self.args, device = args, args.device
        detector = create_detector(
            "resproto_fd", backbone=backbone(args), pretrained=None, start_epoch=0, keep_text_tower=text_tower
        )
        self.detector = detector.to(device).train()
        self.detector.start_training(torch.tensor([1000, 4000]))
        self.detector.start_epoch(0)
        trained = [p for p in self.detector.parameters() if p.requires_grad]
        recipe = OptimizerConfig(name="adam", lr=5e-7, weight_decay=1e-6)
        self.optimizer = make_optimizer(recipe, trained, torch.device(device))
        size = detector.clip.visual.image_size
        self.images = torch.randn(batch, 3, *(size if isinstance(size, tuple) else (size, size)), device=device)
        self.labels = (torch.arange(batch, device=device) % 5 > 0).long()
        if text_tower:
            prompts = REAL_PROMPTS + FORGED_PROMPTS
            self.tokens = detector.clip.tokenizer(prompts).to(device)

    def step(self, kind: str) -> Callable[[], None]:
        return {
            "plain": self.plain,
            "residual": lambda: self.ours(collects=False),
            "resproto_fd": lambda: self.ours(collects=True),
            "released": self.released,
        }[kind]

    def compile(self) -> None:
        """Compile what the trainer compiles (train.compile); a tiny model is traced and not built."""
        backend = "aot_eager" if self.args.tiny else "inductor"
        self.detector.encode = torch.compile(self.detector.encode, backend=backend)

    def held(self, memory: bool) -> int:
        """Bytes that lie there between two steps, with or without the prototypes."""
        tensors = [*self.detector.parameters(), *self.detector.buffers(), self.images, self.labels]
        tensors += [value for state in self.optimizer.state.values() for value in state.values()]
        prototypes = 0 if memory else sum(b.nbytes for b in self.detector.memory.buffers())
        return sum(tensor.nbytes for tensor in tensors) - prototypes

    def plain(self) -> None:
        with autocast(self.args):
            features = F.normalize(self.detector.encode(self.images).float(), dim=-1)
            logits = temperature(self.detector.clip.logit_scale) * (features @ self.detector.text_features.T)
            loss = F.cross_entropy(logits, self.labels)
        self._update(loss)

    def ours(self, collects: bool) -> None:
        self.detector.collects = collects
        with autocast(self.args):
            loss = self.detector(self.images, self.labels).losses["total"]
        self._update(loss)

    def released(self) -> None:
        with torch.no_grad(), autocast(self.args):
            embedded = self.detector.clip.text(self.tokens).float()
            text = F.normalize(embedded.unflatten(0, (2, -1)).mean(1), dim=-1)
        logits, _ = self._residual_logits(self.detector, text)
        loss = self.detector.loss(logits, self.labels)

        kept = {id(self.detector.clip.tokenizer): self.detector.clip.tokenizer}  # no part of the released model
        twin, twin_optimizer = copy.deepcopy((self.detector, self.optimizer), kept)
        logits, residual = self._residual_logits(twin, text)
        per_class = twin.loss.per_class(logits, self.labels)
        for c, candidates in enumerate(self._candidates(residual.detach())):
            twin_optimizer.zero_grad()
            per_class[c].backward(retain_graph=c == 0)
            norm = torch.nn.utils.get_total_norm([p.grad for p in twin.parameters() if p.grad is not None])
            self.detector.memory.update(c, candidates, norm)
        self._update(loss)

    def _residual_logits(self, detector, text):
        with autocast(self.args):
            features = F.normalize(detector.encode(self.images).float(), dim=-1)
        residual = residual_features(features, text, self.labels, detector.residual_weight)
        return similarity_logits(residual, text, temperature(detector.clip.logit_scale)), residual

    def _candidates(self, residual):
        forged = self.labels == 1
        yield residual[~forged].mean(0, keepdim=True)
        yield kmeans(residual, forged, 4)[0]

    def _update(self, loss) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.detector.after_step()


def peak_memory(subject: Subject, kind: str) -> float:
    """Peak MiB of the tensors in a step: model, optimiser and batch, and the most that the step adds to them."""
    step, device = subject.step(kind), subject.args.device
    step()  # makes the state of the optimiser
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        added = torch.cuda.max_memory_allocated(device) - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            step()
        events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        added = max(accumulate(event.nbytes() for event in events))  # allocated less freed so far
    return (subject.held(memory=kind in ("resproto_fd", "released")) + added) / 2**20


def floating_operations(subject: Subject) -> int:
    """Floating-point operations of a plain step: those of its matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        subject.plain()
    return counter.get_total_flops()


def measured_tflops(device: str, size: int = 8192, rounds: int = 5, burst: int = 10) -> float:
    """TFLOP/s of a square matrix product in bf16: the median of some rounds after one that warms up."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = in_turn({"product": lambda: torch.mm(left, right)}, rounds, burst, device)
    return 2 * size**3 / float(median(seconds["product"].wall)) / 1e12


def peak_tflops(args: Namespace) -> tuple[float | None, str]:
    """(TFLOP/s that the device can do in this precision at most, how that is known); None where it is not known."""
    if args.peak_tflops:
        return args.peak_tflops, "given"
    if args.precision != "bf16" or not args.device.startswith("cuda"):
        return None, "unknown"
    name = torch.cuda.get_device_name(args.device)
    peak = next((peak for known, peak in PEAK_BF16_TFLOPS.items() if known in name), None)
    return (peak, "table") if peak else (measured_tflops(args.device), "measured")


def measure(args: Namespace, batch: int, peak: float | None) -> tuple[dict[str, dict[str, float | None]], dict | None]:
    """(Figures of each kind of step, ratios of ResProto-FD's step to that without prototypes if both are asked for)."""
    shared = Subject(args, batch)
    subjects = {kind: Subject(args, batch, True) if kind == "released" else shared for kind in args.kinds}
    flops = floating_operations(shared)  # before it is compiled: the counter sees single operations
    if args.compile:
        shared.compile()
    memory = {kind: peak_memory(subject, kind) for kind, subject in subjects.items()}
    steps = {kind: subject.step(kind) for kind, subject in subjects.items()}
    seconds = in_turn(steps, args.steps, args.burst, args.device)
    figures = {}
    for kind in args.kinds:
        time = float(median(seconds[kind].wall))
        figures[kind] = {
            "ms": time * 1e3,
            **seconds[kind].ratios(seconds["plain"]),
            "images_per_second": batch / time,
            "model_tflops_per_second": flops / time / 1e12,
            "mfu": flops / time / 1e12 / peak if peak else None,
            "peak_mib": memory[kind],
            "extra_memory": memory[kind] / memory["plain"] - 1,
        }
    both = {"residual", "resproto_fd"} <= seconds.keys()
    return figures, seconds["resproto_fd"].ratios(seconds["residual"]) if both else None


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    add_model_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="plain is always among them")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the share of it that is used (MFU)")
    parser.add_argument("--compile", action="store_true", help="compile the image tower, as train.compile does")
    args = parse(parser)
    if args.compile and "released" in args.kinds:
        parser.error("--compile: expected --kinds without released, whose copies cannot be compiled; set --kinds")
    args.kinds = ["plain", *(kind for kind in KINDS[1:] if kind in args.kinds)]

    results, rows = [], []
    peak, source = peak_tflops(args)
    for batch in args.batch:
        kinds, prototypes = measure(args, batch, peak)
        results.append({"batch": batch, "kinds": kinds, "prototypes": prototypes})
        for kind, figures in kinds.items():
            mfu = figures["mfu"]
            rows.append(
                {
                    "step": kind,
                    "batch": str(batch),
                    "ms": f"{figures['ms']:.1f}",
                    "ratio (quartiles)": "{ratio:.4f} ({ratio_low:.3f}-{ratio_high:.3f})".format(**figures),
                    "CPU ratio": f"{figures['ratio_cpu']:.4f}",
                    "images/s": f"{figures['images_per_second']:.1f}",
                    "TFLOP/s": f"{figures['model_tflops_per_second']:.2f}",
                    "MFU": f"{mfu:.1%}" if mfu else "-",
                    "peak MiB": f"{figures['peak_mib']:.0f}",
                    "extra": f"{figures['extra_memory']:+.2%}",
                }
            )
    figures = {"benchmark": "grp_overhead", "model": args.model, "precision": args.precision, "rounds": args.steps}
    figures |= {"burst": args.burst, "compiled": args.compile, "peak_tflops": peak, "peak_from": source}
    words = f"{', compiled' * args.compile}; peak {f'{peak:.0f} TFLOP/s, ' if peak else ''}{source}"
    report(
        f"Training step of {args.model}, {args.precision}, against plain fine-tuning of CLIP{words}",
        rows,
        {**figures, "results": results},
        args,
    )


if __name__ == "__main__":
    main()
