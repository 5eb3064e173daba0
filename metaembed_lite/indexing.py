"""Fill an index with the candidates of a suite, or with the images of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm.auto import tqdm

from metaembed_lite import checkpoints, items
from metaembed_lite.arguments import whole_number
from metaembed_lite.data import SUITES, RetrievalTask, load_task
from metaembed_lite.data.image_files import find_images
from metaembed_lite.data.sticker_art import ATTRIBUTION
from metaembed_lite.index import MetaIndex
from metaembed_lite.index.incoming import check_ids
from metaembed_lite.loading import load
from metaembed_lite.meta_tokens import choose_budgets
from metaembed_lite.recipes import read_suite_settings
from metaembed_lite.thumbnails import encode_thumbnail

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

THUMBNAIL_PX = 160  # of an image's longer side
COMMIT_EVERY = 2048  # candidates. What is committed survives an interruption
MAX_NAMED = 20  # unreadable files that an error names


@dataclass(frozen=True)
class Corpus:
    """Candidates that are to be indexed.

    Attributes:
        ids: one text per candidate.
        items: texts, images, paths of images, or dicts with both.
        paths: of the files, or None if they are no files.
        skipped: for each file that cannot be read its path, and why.
        credit: whom to name where the candidates are shown, or None.

    Example:
        >>> Corpus(["a"], ["violin"]).metadata_columns()
        ['text']
    """

    ids: list[str]
    items: list[Any]
    paths: list[str] | None = None
    skipped: tuple[str, ...] = ()
    credit: str | None = None

    def without(self, ids: set[str]) -> Corpus:
        """The candidates that have none of these ids."""
        kept = [i for i, name in enumerate(self.ids) if name not in ids]
        paths = None if self.paths is None else [self.paths[i] for i in kept]
        return replace(
            self,
            ids=[self.ids[i] for i in kept],
            items=[self.items[i] for i in kept],
            paths=paths,
        )

    def metadata_columns(self) -> list[str]:
        """``text``, ``path`` and ``thumbnail``, those that some candidate has."""
        kinds = {kind for item in self.items for kind in _kinds(item)}
        return [
            *(["text"] if "text" in kinds else []),
            *(["path"] if self.paths is not None else []),
            *(["thumbnail"] if "image" in kinds else []),
        ]


def _kinds(item: Any) -> list[str]:
    """Which of "text" and "image" an item has. Nothing is opened."""
    if isinstance(item, str):
        return ["text"]
    if isinstance(item, dict) and not items.FILE_KEYS.issuperset(item):
        return [name for name in ("text", "image") if item.get(name)]
    return ["image"]


def read_folder(
    folder: str | Path,
    *,
    skip_unreadable: bool = False,
    stored: set[str] | None = None,
    progress: bool = False,
) -> Corpus:
    """The images of a folder. Each is opened once, to find those that cannot be read.

    Args:
        folder: the images lie in it or anywhere below it. An id is the path relative to it.
        skip_unreadable: leave out files that cannot be read. Defaults to False, an error.
        stored: ids that are left out and not opened. Defaults to none.
        progress: show a progress bar. Defaults to False.

    Raises:
        ValueError: naming the files that cannot be read, or if no image is left.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 8)).save(Path(folder, "cat.png"))
        ...     _ = Path(folder, "dog.png").write_text("not an image")
        ...     read_folder(folder, skip_unreadable=True).ids
        ['cat.png']
    """
    root = Path(folder).resolve()
    files = {file.relative_to(root).as_posix(): file for file in find_images(root)}
    new = {name: file for name, file in files.items() if name not in (stored or ())}
    problems = {}
    for name, file in tqdm(new.items(), desc="reading", unit=" images", disable=not progress):
        try:
            check_ids([name])
            items.open_picture(file)
        except (ValueError, OSError) as error:
            problems[name] = f"{name!r}: {str(error).replace(str(file), 'it')}"
    if problems and not skip_unreadable:
        named = "\n  ".join(list(problems.values())[:MAX_NAMED])
        more = f"\n  and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise ValueError(
            f"{len(problems)} of {len(new)} images cannot be read:\n  {named}{more}\nMend or "
            "remove them, or leave them out with --skip-unreadable. Nothing was written"
        )
    good = [name for name in new if name not in problems]
    if problems and not good and not stored:
        raise ValueError(f"none of the {len(new)} images in {folder} can be read")
    paths = [str(new[name]) for name in good]
    return Corpus(good, [new[name] for name in good], paths, tuple(problems.values()))


def read_task(task: RetrievalTask) -> Corpus:
    """The candidates of a task. An id is the name that the task has for a candidate.

    Without names, an id is a hash of the content, and equal items are one candidate.

    Example:
        >>> corpus = read_task(load_task("stickers", n_queries=2, n_train=0))
        >>> len(corpus.ids), len(corpus.ids[0]), corpus.metadata_columns()
        (4, 16, ['thumbnail'])
    """
    credit = ATTRIBUTION if ATTRIBUTION in task.about else None
    if task.candidate_names is not None:
        return Corpus(list(task.candidate_names), list(task.candidates), credit=credit)
    unique: dict[str, Any] = {}
    for item in task.candidates:
        unique.setdefault(f"{items.key(items.read(item)):016x}", item)
    return Corpus(list(unique), list(unique.values()), credit=credit)


def build_index(
    model: str,
    source: str,
    output: str | Path,
    settings: Sequence[str] = (),
    *,
    add: bool = False,
    dtype: str | None = None,
    rescore: str | None = None,
    skip_unreadable: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[MetaIndex, Corpus]:
    """Encode the candidates of a suite, or the images of a folder, and store them in an index.

    Candidates are committed a few thousand at a time. So an interrupted run is continued with
    ``add=True``.

    Args:
        model: a bundled name, a folder or a hub id.
        source: a suite of ``load_task``, or a folder of images.
        output: path of the index.
        settings: of the suite, as "key=value". Defaults to none.
        add: add to the index at ``output``, if there is one. Ids that it has are not encoded again.
            Defaults to False.
        dtype, rescore: as in ``MetaIndex.create``. Default to those of the index, or to float16
            and none.
        skip_unreadable: leave out files that cannot be read. Defaults to False, an error.
        batch_size: candidates per batch. Defaults to 64.
        progress: show progress bars. Defaults to True.

    Returns:
        The index, and the candidates that were added.

    Raises:
        FileExistsError: if there is an index at ``output``, and not ``add``.
        ValueError: on a source, a setting or a file that cannot be read. Nothing is written then.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     index, added = build_index(
        ...         "tiny", "stickers", f"{folder}/index", ["n_queries=2"], progress=False
        ...     )
        ...     len(index), len(added.ids), index.header.model
        (4, 4, 'tiny')
    """
    batch_size = whole_number(batch_size, "batch_size")
    index = _find_index(str(output), add)
    if index is not None:
        _check_existing(index, add, dtype, rescore)
    stored = set() if index is None else index.ids()
    if source in SUITES:
        chosen = read_suite_settings(source, settings, n_queries=500, n_train=0)
        corpus = read_task(load_task(source, **chosen)).without(stored)
    elif Path(source).is_dir():
        if settings:
            raise ValueError(f"{settings[0]!r}: a folder has no settings, only a suite does")
        corpus = read_folder(
            source, skip_unreadable=skip_unreadable, stored=stored, progress=progress
        )
    else:
        raise ValueError(
            f"{source!r} is neither a folder nor a suite: the suites are {', '.join(SUITES)}"
        )
    encoder = load(model)
    if index is None:
        budgets = choose_budgets(encoder)
        index = MetaIndex.create(
            output,
            encoder.get_embedding_dimension() or 0,
            budgets,
            dtype or "float16",
            rescore=rescore,
            model=encoder,
            model_name=_lasting_name(model),
            credit=corpus.credit,
        )
    add_corpus(index, encoder, corpus, batch_size, progress)
    return index, corpus


def _find_index(path: str, add: bool) -> MetaIndex | None:
    """The index at a path, if there is one. In an object store, ``create`` checks that itself."""
    if "://" in path and not add:
        return None
    try:
        return MetaIndex.open(path)
    except FileNotFoundError:
        return None


def _check_existing(index: MetaIndex, add: bool, dtype: str | None, rescore: str | None) -> None:
    if not add:
        raise FileExistsError(
            f"{index.path} holds an index: add to it with --add, or delete the folder first"
        )
    columns = index.columns
    for name, given, its in (
        ("dtype", dtype, columns.dtype),
        ("rescore", rescore, columns.rescore),
    ):
        if given not in (None, its):
            raise ValueError(f"{name} {given!r}: index {index.path} has {its!r}, so leave it out")


def _lasting_name(model: str) -> str:
    """A bundled name, a hub id or a folder's full path, which is found from any folder."""
    if checkpoints.folder(model) is None and Path(model).is_dir():
        return str(Path(model).resolve())
    return model


def add_corpus(
    index: MetaIndex,
    model: MultiVectorEncoder,
    corpus: Corpus,
    batch_size: int = 64,
    progress: bool = False,
) -> None:
    """Encode candidates and add them, in memory that does not grow with their number.

    Raises:
        ValueError: if the index holds vectors of another model, or an id is in the index.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> model = load("tiny", device="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", 128, [(8, 16)], model=model)
        ...     add_corpus(index, model, Corpus(["a", "b"], ["violin", "red apple"]))
        ...     index.get(["b"], ["text"]).text.item()
        'red apple'
    """
    index.check_model(model)
    model.eval()
    n = len(corpus.ids)
    with tqdm(total=n, desc="encoding", unit=" candidates", disable=not progress) as bar:
        for start in range(0, n, COMMIT_EVERY):
            rows = range(start, min(start + COMMIT_EVERY, n))
            index.add_batches(_encode(model, corpus, rows, batch_size, bar), progress=False)
    if n > COMMIT_EVERY:
        index.optimize()


def _encode(
    model: MultiVectorEncoder, corpus: Corpus, rows: range, batch_size: int, bar: tqdm
) -> Iterator[tuple[list[str], list[Tensor], dict[str, list[Any]]]]:
    """Batches of ids, embeddings and metadata, as an index takes them."""
    columns = corpus.metadata_columns()
    for start in range(rows.start, rows.stop, batch_size):
        batch = range(start, min(start + batch_size, rows.stop))
        parts = [items.read(corpus.items[i]) for i in batch]
        embeddings = model.encode_document(parts, batch_size=batch_size, show_progress_bar=False)
        pairs = list(zip(batch, parts, strict=True))
        metadata = {name: [_value(corpus, name, i, part) for i, part in pairs] for name in columns}
        yield [corpus.ids[i] for i in batch], [e.cpu() for e in embeddings], metadata
        bar.update(len(batch))


def _value(corpus: Corpus, column: str, i: int, parts: dict[str, Any]) -> Any:
    """One value of the metadata. It is empty, not None, because None has no type."""
    if column == "path":
        return (corpus.paths or [])[i]
    if column == "text":
        return parts.get("text", "")
    return encode_thumbnail(parts["image"], THUMBNAIL_PX) if "image" in parts else b""
