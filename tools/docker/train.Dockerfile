# Training in a container; images and runs stay outside. In a checkout of this repository:
#
#   docker build -f tools/docker/train.Dockerfile -t keras_alexnet .
#   docker run --rm -v "$PWD/images:/images:ro" -v "$PWD/runs:/alexnet/runs" keras_alexnet \
#     -m keras_alexnet.train --flagfile=flags/photos.cfg --data_dir=/images --model_dir=runs/images
#
# On NVIDIA GPUs: build with --build-arg EXTRA='[cuda]', run with --gpus all. The process is user 1000, who must be able
# to write to runs. Linted with hadolint, not built.
FROM python:3.11-slim-bookworm
ARG EXTRA=""
WORKDIR /alexnet
COPY setup.py README.md LICENSE constraints.txt ./
COPY keras_alexnet keras_alexnet
RUN pip install --no-cache-dir --constraint constraints.txt ".${EXTRA}" && rm -rf keras_alexnet build
COPY flags flags
COPY tools tools
RUN useradd --uid 1000 --create-home alexnet && install --directory --owner=alexnet runs
USER 1000
ENTRYPOINT ["python"]
