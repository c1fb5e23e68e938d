"""`sae train` from the cache against sae-lens training with the live model: rows per second at the same settings.

The live side is sae-lens' own `LanguageModelSAETrainingRunner` over the same model in the same dtype, the same texts as tokens
in contexts of 128, stopped at the layer: its activations store, its trainer. Our side reads the rows that a build left. Both
start from loaded models and opened caches, and take turns.
"""

import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import steercache
from bench.texts import write_texts, write_trace
from bench.turns import Row, take_turns
from steercache.sae.library import sae_lens
from steercache.sae.training_settings import TrainingSettings

LAYER = 15
CONTEXT = 128
BATCH = 1024
N_TEXTS = 600
N_ROWS = 24 * BATCH
TURNS = 3
WIDTHS = ("8x",)


def run() -> Iterator[Row]:
    """One row per width."""
    folder = Path(tempfile.mkdtemp(prefix="bench-sae-training-"))
    try:
        write_texts(folder, n=N_TEXTS, sentences=(8, 12))
        manifest = write_trace(folder, layers=[LAYER])
        cache = steercache.open(folder / "cache", create=True)
        run_of_texts = str(cache.build(manifest, device="cpu", dtype="bfloat16", progress=False))
        loaded = steercache.load("smollm2-135m", device="cpu", dtype="bfloat16", root=folder / "cache")
        live = LiveTraining(loaded, (folder / "texts.txt").read_text().splitlines())
        for width in WIDTHS:
            yield bench_width(cache, run_of_texts, live, width=width, folder=folder)
    finally:
        shutil.rmtree(folder)


def bench_width(cache: Any, run_name: str, live: "LiveTraining", *, width: str, folder: Path) -> Row:
    """Rows per second of both, in turn."""
    settings = TrainingSettings(width=width, k=32, batch_size=BATCH, n_rows=N_ROWS, held_out=0.0)
    number = 0

    def from_cache() -> None:
        nonlocal number
        number += 1
        cache.train_sae(run_name, layer=LAYER, out=folder / f"sae-{number}", settings=settings, progress=False)

    row = take_turns(
        f"sae train from the cache, against sae-lens training with the live model: SmolLM2, layer {LAYER}, {width}",
        from_cache,
        lambda: live.train(settings),
        n=TURNS,
        target=">= 2",
    )
    return row | {"rows_per_s": N_ROWS / row["ours_s"], "peer_rows_per_s": N_ROWS / row["peer_s"], "batch": BATCH}


def contexts(tokenizer: Any, texts: list[str]) -> Any:
    """The texts one after the other, cut into contexts: the tokenised data set that sae-lens wants."""
    import datasets

    ids = [one for text in tokenizer(texts, add_special_tokens=False)["input_ids"] for one in text]
    rows = [ids[i : i + CONTEXT] for i in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
    return datasets.Dataset.from_dict({"input_ids": rows})


class LiveTraining:
    """sae-lens' own training, with the forward passes that it needs, as far as the layer."""

    def __init__(self, loaded: Any, texts: list[str]) -> None:
        sae_lens()
        from sae_lens.load_model import HookedProxyLM

        self.hidden = loaded.spec.hidden_size
        self.hook = f"model.layers.{LAYER}"
        self.tokens = contexts(loaded.tokenizer, texts)
        self.model = HookedProxyLM(loaded.model, loaded.tokenizer, hook_names=[self.hook])

    def train(self, settings: TrainingSettings) -> None:
        """As many rows as the settings say, in batches of the same size."""
        library = sae_lens()
        from sae_lens.config import LoggingConfig

        sae = library.BatchTopKTrainingSAEConfig(
            d_in=self.hidden,
            d_sae=settings.n_features(self.hidden),
            k=settings.k,
            normalize_activations="expected_average_only_in",
        )
        config = library.LanguageModelSAERunnerConfig(
            sae=sae,
            model_name="smollm2-135m",
            model_class_name="AutoModelForCausalLM",
            hook_name=self.hook,
            dataset_path="texts",
            is_dataset_tokenized=True,
            streaming=False,
            context_size=CONTEXT,
            prepend_bos=False,
            training_tokens=settings.n_rows,
            train_batch_size_tokens=settings.batch_size,
            store_batch_size_prompts=16,
            n_batches_in_buffer=16,  # two batches of rows: as little as it computes ahead and does not train on
            n_batches_for_norm_estimate=1,
            lr=settings.lr,
            lr_warm_up_steps=2,
            lr_decay_steps=3,
            device="cpu",
            logger=LoggingConfig(log_to_wandb=False),
            checkpoint_path=None,
            output_path=None,
            verbose=False,
        )
        with _signals_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner = library.LanguageModelSAETrainingRunner
            runner(config, override_dataset=self.tokens, override_model=self.model).run()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """sae-lens' runner takes the signal handlers of the process, and does not give them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    for row in run():
        print(row, file=sys.stderr)
