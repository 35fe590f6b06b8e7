"""The indexes of a retrieval: which pictures are searched and which are asked about, and what is kept of them."""

import dataclasses
import os

from keras_alexnet.errors import UsageError, printable
from keras_alexnet.files import progress_bar
from keras_alexnet.paper import features

QUICK = 4  # pictures of a class
NAMED = 3  # files left out that are named on the screen


def sources_of(settings):
    """The pictures to be searched and those to ask about.

    Args:
        settings: config.RetrievalConfig.

    Returns:
        (index, queries): sources.FolderSource; one and the same where the splits are.

    Raises:
        UsageError: a split is missing, or precision would say nothing of it.
    """
    split = index_split(settings)
    source = source_of(settings, split)
    if not source.class_names:
        raise UsageError(
            f"--index_split={split}: {source.root} has no class folders, without which no answer is right or wrong; "
            "give --query=PICTURE"
        )
    if len(source.class_names) == 1:
        raise UsageError(
            f"--index_split={split}: {source.root} has one class only, and every answer would be right; add classes, "
            "or give --query=PICTURE"
        )
    if settings.query_split == split:
        return source, source
    asked = source_of(settings, settings.query_split, "query_split")
    unknown = sorted(set(asked.class_names) - set(source.class_names))
    if unknown or not asked.class_names:
        what = f"its class {unknown[0]!r} is" if unknown else "its pictures are of no class that is"
        raise UsageError(f"--query_split={settings.query_split}: {what} not in --index_split={split}")
    return source, asked


def index_split(settings):
    """The name of the folder to be searched, str; "." is DATA_DIR itself."""
    if settings.index_split:
        return settings.index_split
    return "train" if os.path.isdir(os.path.join(settings.data_dir, "train")) else "."


def folder_of(settings):
    """Where indexes and codes are kept, str; with --quick apart from the whole ones."""
    return os.path.join(settings.results_dir, "retrieval", *["quick"] * settings.quick)


def source_of(settings, split, flag="index_split"):
    """The pictures of a split: sources.FolderSource; with --quick the first QUICK of each class. Raises UsageError."""
    source = features.list_pictures(settings.data_dir, split, flag)
    if settings.quick:
        seen, kept = {}, set()
        for file, label in zip(source.files, source.labels, strict=True):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= QUICK:
                kept.add(file)
        source = source.without([file for file in source.files if file not in kept])
    return source


def opened(settings, source, describe, name, kind):
    """The index that was made before, where it is of this model and these files; or else a new one.

    Args:
        settings: config.RetrievalConfig.
        source: sources.FolderSource.
        describe: see `features.feature_extractor`.
        name: str, see `features.model_id`.
        kind: "index" (of features, where `--index` says), "features" or "pixels".

    Returns:
        features.Index.

    Raises:
        RunError: the file that is there is no index, or none of the files is a picture.
    """
    split = "all" if source.name == "." else source.name
    path = settings.index if kind == "index" and settings.index else None
    if path is None:
        kept_as = "features" if kind == "index" else kind
        path = os.path.join(folder_of(settings), f"{kept_as}_{split}.npz")
    if os.path.exists(path):
        index = features.load(path)
        if features.is_of(index, name, source):
            return dataclasses.replace(index, root=source.root)
        other = "another model" if index.model != name else "other files"
        print(f"{path}: is of {other}; made anew", flush=True)
    index = features.make(
        describe, name, source, progress_bar(f"{kind if kind == 'pixels' else 'describing'} {source.name}")
    )
    features.save(index, path)
    if index.left_out:
        named = "; ".join(printable(each) for each in index.left_out[:NAMED])
        print(f"{len(index.left_out)} files left out: {named}{' ...' * (len(index.left_out) > NAMED)}", flush=True)
    return index
