"""Labels of a data set's inputs, written beside the runs that they describe."""

import tempfile
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.handle import CacheFolder
from steercache.core.examples import Labels
from steercache.core.ids import canonical_json
from steercache.index.schemas import ANNOTATIONS
from steercache.runs.inputs import InputSample
from steercache.store.durable import make_folder, settle, write_file_atomically

BATCH = 4096


class LabelWriter:
    """Collects the labels of one data set in constant memory; `keep` gives the file its place."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._rows: list[dict[str, object]] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed on exit
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "LabelWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, sample: InputSample) -> None:
        """Take in one sample's labels; a sample without any leaves no row."""
        labels = sample.example.labels
        if labels == Labels():
            return
        self._rows.append(
            {
                "sample_id": sample.encoded.sample_id,
                "ordinal": sample.ordinal,
                "concept": labels.concept,
                "split": labels.split,
                "question": labels.question,
                "choices": list(labels.choices),
                "answer": labels.answer,
                "group_id": labels.group_id,
                "pair_id": labels.pair_id,
                "polarity": labels.polarity,
                "anchors": [{"start": start, "end": end} for start, end in sample.encoded.anchors],
                "controls": labels.controls,
                "meta": canonical_json(dict(labels.meta)).decode(),
            }
        )
        if len(self._rows) >= BATCH:
            self._flush()

    def keep(self, cache: CacheFolder, inputs_digest: str) -> bool:
        """Put the labels in their place in `cache`; returns whether they differ from those that were there."""
        path = cache.paths.annotation(self.dataset, inputs_digest)
        self._flush()
        if self._writer is None:
            return False
        self._writer.close()
        self._file.seek(0)
        data = self._file.read()
        if path.exists() and path.read_bytes() == data:
            settle(path)
            return False
        make_folder(path.parent)
        write_file_atomically(path, data)
        return True

    def _flush(self) -> None:
        if self._rows:
            if (
                self._writer is None
            ):  # a column that says nothing is not written: files from before it stay the same bytes
                says = any(row["controls"] is not None for row in self._rows)
                kept = [field for field in ANNOTATIONS if says or field.name != "controls"]
                self._writer = pq.ParquetWriter(self._file, pa.schema(kept), compression="zstd")
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._writer.schema))
            self._rows = []


def runs_over(cache: CacheFolder, dataset: str, inputs_digest: str) -> list[str]:
    """Names of the runs that hold these inputs: the ones that mended labels are joined into."""
    return [
        document.name
        for document in cache.documents()
        if any((d.dataset, d.inputs_digest) == (dataset, inputs_digest) for d in document.datasets)
    ]
