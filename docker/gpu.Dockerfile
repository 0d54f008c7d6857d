# The command rsseg-tf on NVIDIA GPUs. Build it from the top of the project:
#
#     docker build -f docker/gpu.Dockerfile -t rsseg-tf:gpu .
#     docker run --rm --gpus all --shm-size 2g --user "$(id -u):$(id -g)" -v "$PWD:/data" rsseg-tf:gpu train --config config.yml --save_dir run
#
# CUDA and cuDNN come with TensorFlow's own packages; the machine needs NVIDIA's driver and its container toolkit. Files
# lie in /data, the folder that is mounted there. The container needs no root.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS wheel
WORKDIR /source
RUN pip install --no-cache-dir "build>=1.2,<2"
COPY . .
RUN python -m build --wheel --outdir /dist

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="rsseg-tf" \
      org.opencontainers.image.description="Semantic segmentation of remote sensing images with TensorFlow and Keras" \
      org.opencontainers.image.licenses="Apache-2.0"
# rasterio's wheels take libexpat from the system; which release of it is Debian's choice.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home rsseg
# Extras of the package; setup.py has the range of each requirement.
ARG EXTRAS=gpu,onnx,tflite,serving,vector,parquet
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir "$(echo /dist/*.whl)[${EXTRAS}]" \
    && python -c "import cv2, rasterio, tensorflow"
# Caches go to /tmp, where any user may write.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /data
EXPOSE 8500 8501
ENTRYPOINT ["rsseg-tf"]
CMD ["--help"]
