# TensorFlow Serving with the exported versions of a run inside, for machines that do not have the run. In a checkout:
#
#   docker build -f tools/docker/serve.Dockerfile --build-arg RUN=runs/images -t alexnet_serving .
#   docker run --rm -p 8500:8500 -p 8501:8501 alexnet_serving
#
# SERVING_IMAGE names another image, such as one for GPUs, or one of a version that does not move under your feet.
# Linted with hadolint, not built. tools/serving/compose.yml serves an export without an image of its own.
ARG SERVING_IMAGE=tensorflow/serving:latest
# hadolint ignore=DL3006
FROM ${SERVING_IMAGE}
ARG RUN
COPY tools/serving/models.config tools/serving/batching.config tools/serving/monitoring.config /config/
COPY ${RUN}/export /models/alexnet
EXPOSE 8500 8501
ENTRYPOINT ["/usr/bin/tensorflow_model_server"]
CMD ["--port=8500", "--rest_api_port=8501", "--model_config_file=/config/models.config", \
     "--enable_batching=true", "--batching_parameters_file=/config/batching.config", \
     "--monitoring_config_file=/config/monitoring.config", "--rest_api_timeout_in_ms=30000"]
