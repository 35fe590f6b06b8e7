"""Shards by Apache Beam: the same preparation on many machines. Needs the extra `beam`.

    preparation.prepare(train, val, out, settings, write=beam.writer(opener, ["--runner=FlinkRunner", ...]))

A shard is one element of a pipeline, and whoever gets it writes it as one machine would. All machines must see the
source and the folder under the same paths, and have this package installed.
"""

import functools

from keras_alexnet.data import shards
from keras_alexnet.errors import RunError, UsageError


def writer(opener, options):
    """A function to be given to `preparation.prepare` as `write`.

    Args:
        opener: function of nothing -> (train, val), see `keras_alexnet.data.sources`; pickled, and called by each
            worker, because the list of a million files is too large to be a part of a pipeline.
        options: list of str, Beam's own, such as "--runner=DirectRunner".

    Raises:
        UsageError: Beam is not installed, or does not know its options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UsageError("--beam: needs Apache Beam: pip install 'keras-alexnet[beam]'") from None
    try:
        parsed = PipelineOptions(options)
        unknown = sorted(set(parsed.get_all_options(retain_unknown_options=True)) - set(parsed.get_all_options()))
    except SystemExit:
        raise UsageError(f"Beam does not understand {' '.join(options)}; its own words are above") from None
    if unknown:
        raise UsageError(f"--{unknown[0]}: is neither an option of this program nor one of Beam's")
    return functools.partial(_write, opener, parsed)


def _write(opener, options, source, split, numbers, folder, settings, threads=1):
    """As `shards.write`. All of a split is one pipeline, so that progress is known at its end only."""
    import apache_beam as beam

    class Write(beam.DoFn):
        def setup(self):
            self.source = opener()[shards.SPLITS.index(split)]
            if self.source.fingerprint() != fingerprint:
                raise RunError(f"{self.source.name}: a worker finds other files there than the program that started it")

        def process(self, number):
            yield sum(shards.write(self.source, split, [number], folder, settings, threads))

    if not numbers:
        return
    fingerprint = source.fingerprint()
    try:
        with beam.Pipeline(options=options) as pipeline:
            # Reshuffled: else all shards that one element list made would be the work of one worker.
            pipeline | beam.Create(numbers) | beam.Reshuffle() | beam.ParDo(Write())
    except Exception as error:
        # Beam and its runners wrap what happened on a worker in errors of their own, its own words last.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RunError(f"Apache Beam: {lines[-1] if lines else type(error).__name__}") from error
    yield sum(len(settings.places_of(number, source.count)) for number in numbers)
