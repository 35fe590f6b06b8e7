#!/usr/bin/env bash
# TensorFlow Serving without a container: the newest version of an export, by REST and by gRPC.
#
#   tools/serving/serve.sh runs/quickstart/export [CONFIG_DIR]
#
# The configuration is copied to CONFIG_DIR (default: serving beside the export) the first time, with the export's place
# filled in; what is changed there stays, and models.config is read again every ten seconds.
# REST_PORT (8501) and GRPC_PORT (8500) are taken from the environment.
set -euo pipefail

fail() { echo "serve.sh: $1" >&2; exit 2; }

[[ $# -ge 1 && $# -le 2 ]] || fail "give the export folder of a run, such as runs/quickstart/export"
[[ -d $1 ]] || fail "$1: there is no such folder"
[[ ! -e $1/saved_model.pb ]] || fail "$1: is one version; give the folder above it"
compgen -G "$1/[0-9]*/saved_model.pb" > /dev/null || fail "$1: holds no version of a model (python -m keras_alexnet.export)"
command -v tensorflow_model_server > /dev/null ||
  fail "tensorflow_model_server is not on the PATH; see https://www.tensorflow.org/tfx/serving/setup, or use compose.yml"

export_dir=$(realpath "$1")
config_dir=${2:-$(dirname "$export_dir")/serving}
mkdir -p "$config_dir"
config_dir=$(realpath "$config_dir")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
for name in models batching monitoring; do
  [[ -e $config_dir/$name.config ]] && continue
  content=$(< "$here/$name.config")
  printf '%s\n' "${content//\/models\/alexnet/"$export_dir"}" > "$config_dir/$name.config"
done
grep -qF "\"$export_dir\"" "$config_dir/models.config" ||
  fail "$config_dir/models.config serves another folder than $export_dir; change its base_path, or remove the file"

exec tensorflow_model_server \
  --port="${GRPC_PORT:-8500}" \
  --rest_api_port="${REST_PORT:-8501}" \
  --model_config_file="$config_dir/models.config" \
  --model_config_file_poll_wait_seconds=10 \
  --enable_batching=true \
  --batching_parameters_file="$config_dir/batching.config" \
  --monitoring_config_file="$config_dir/monitoring.config" \
  --rest_api_timeout_in_ms=30000
