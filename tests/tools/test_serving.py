import os
import re
import subprocess
from pathlib import Path

import pytest
from google.protobuf import empty_pb2, text_format

SERVING = Path(__file__).parents[2] / "tools" / "serving"


def test_models():
    """The configuration, and the lines in it that go back to an earlier version."""
    protocol = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text = (SERVING / "models.config").read_text()
    (model,) = text_format.Parse(text, protocol.ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("alexnet", "/models/alexnet", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1
    used = next(line for line in text.splitlines() if line.strip().startswith("model_version_policy"))
    others = re.findall(r"#   (model_version_policy.*?)(?:   and.*)?$", text, re.M)
    for other, versions in zip(others, ([1], [1, 2]), strict=True):
        (model,) = text_format.Parse(text.replace(used, other), protocol.ModelServerConfig()).model_config_list.config
        assert model.model_version_policy.specific.versions == versions


def test_batching_and_monitoring():
    """tensorflow-serving-api leaves their protocols out: the syntax, and the names of the fields."""
    batching = {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}
    for name, fields in (("batching.config", batching), ("monitoring.config", {"prometheus_config"})):
        text = (SERVING / name).read_text()
        text_format.Parse(text, empty_pb2.Empty(), allow_unknown_field=True)
        assert set(re.findall(r"^(\w+) {", text, re.M)) == fields


def test_the_compose_file_and_the_script_start_the_same_server():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((SERVING / "compose.yml").read_text())
    script = (SERVING / "serve.sh").read_text()
    assert set(compose["services"]) == {"cpu", "gpu"}
    for name, service in compose["services"].items():
        assert service["profiles"] == [name]
        assert [volume.rpartition(":/")[2] for volume in service["volumes"]] == ["models/alexnet:ro", "config:ro"]
        for argument in service["command"]:
            flag, _, value = argument.partition("=")
            assert f"{flag}=" in script
            if value.startswith("/config/"):
                assert (SERVING / value.removeprefix("/config/")).is_file()


def test_triton_serves_the_onnx_export():
    """Syntax by the published protocol; the names and sizes are those that ServedModel.network_outputs has."""
    protocol = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    text = (SERVING / "triton" / "alexnet" / "config.pbtxt").read_text()
    model = text_format.Parse(text, protocol.ModelConfig())
    assert (model.name, model.backend, model.max_batch_size) == ("alexnet", "onnxruntime", 128)
    ports = [(each.name, each.data_type, list(each.dims)) for each in (*model.input, *model.output)]
    shapes = (("images", [224, 224, 3]), ("probabilities", [1000]), ("features", [4096]))
    assert ports == [(name, protocol.TYPE_FP32, shape) for name, shape in shapes]
    assert model.output[0].label_filename == "labels.txt" and model.HasField("dynamic_batching")
    (other,) = re.findall(r"`(\{ specific .*?)`", text)
    changed = text_format.Parse(text.replace("{ latest { num_versions: 1 } }", other), protocol.ModelConfig())
    assert changed.version_policy.specific.versions == [1]


def test_the_manifest_of_kserve():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((SERVING / "triton" / "kserve.yml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = manifest["spec"]["predictor"]["model"]
    assert (model["modelFormat"]["name"], model["runtime"]) == ("triton", "kserve-tritonserver")
    assert model["protocolVersion"] == "v2" and model["storageUri"].startswith("pvc://")


@pytest.fixture
def run(tmp_path):
    """A function that runs serve.sh with a program in the server's place that prints what it is called with."""
    (tmp_path / "a run" / "export" / "3").mkdir(parents=True)
    (tmp_path / "a run" / "export" / "3" / "saved_model.pb").touch()
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)

    def serve(*argv, **environment):
        command = ["bash", str(SERVING / "serve.sh"), *map(str, argv)]
        environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", **environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    return serve


def test_the_script_fills_the_place_in_and_keeps_what_was_changed(run, tmp_path):
    done = run("a run/export", REST_PORT="9001")
    assert done.returncode == 0, done.stderr
    flags = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (flags["--port"], flags["--rest_api_port"]) == ("8500", "9001")
    models = tmp_path / "a run" / "serving" / "models.config"
    assert flags["--model_config_file"] == str(models)
    assert f'base_path: "{tmp_path}/a run/export"' in models.read_text()
    changed = models.read_text().replace("num_versions: 1", "num_versions: 2")
    models.write_text(changed)
    assert run("a run/export").returncode == 0
    assert models.read_text() == changed
    (tmp_path / "a run").rename(tmp_path / "renamed")
    done = run("renamed/export")
    assert done.returncode == 2 and "/models.config serves another folder than" in done.stderr
    (tmp_path / "renamed").rename(tmp_path / "a run")
    assert run("a run/export", tmp_path / "elsewhere").returncode == 0
    assert (tmp_path / "elsewhere" / "batching.config").read_text() == (SERVING / "batching.config").read_text()


def test_what_cannot_be_served(run):
    for argv, words in (
        ([], "give the export folder"),
        (["nowhere"], "there is no such folder"),
        (["."], "holds no version of a model"),
        (["a run/export/3"], "give the folder above it"),
    ):
        done = run(*argv)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
