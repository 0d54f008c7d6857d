# The command rsseg-tf on a processor. Build it from the top of the project:
#
#     docker build -f docker/cpu.Dockerfile -t rsseg-tf .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" rsseg-tf predict --model_path model --image_path scene.tif --save_dir result
#     docker run --rm -p 127.0.0.1:8501:8501 -v "$PWD/export/dubai:/model:ro" rsseg-tf serve /model --host 0.0.0.0
#
# Files lie in /data, the folder that is mounted there. The container needs no root and no file system that it can write
# to: `docker run --read-only --tmpfs /tmp --cap-drop ALL` works too.
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
ARG EXTRAS=onnx,tflite,serving,vector,parquet
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir "$(echo /dist/*.whl)[${EXTRAS}]" \
    && python -c "import cv2, rasterio, tensorflow"
# Caches go to /tmp, where any user may write.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2
USER 10001:10001
WORKDIR /data
EXPOSE 8500 8501
ENTRYPOINT ["rsseg-tf"]
CMD ["--help"]
