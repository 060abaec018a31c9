# docker build -t zoo .                            for CPUs: torch without CUDA
# docker build -t zoo --build-arg DEVICE=cuda .    for NVIDIA GPUs: their driver and container toolkit are on the host
# docker run --rm -v zoo-cache:/cache -v "$PWD":/data zoo sample brain-64
ARG DEVICE=cpu

FROM python:3.12-slim AS cpu
# g++ and Python's headers are for torch.compile, and for the kernel of SSIM.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# uv knows where torch without CUDA is.
RUN python3 -m venv /opt/zoo && pip install --no-cache-dir uv && \
    uv pip install --no-cache --python /opt/zoo/bin/python --torch-backend cpu "torch>=2.8" torchvision

FROM nvidia/cuda:12.8.1-base-ubuntu24.04 AS cuda
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    g++ python3.12 python3.12-dev python3.12-venv && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/zoo && /opt/zoo/bin/pip install --no-cache-dir "torch>=2.8"

FROM ${DEVICE}
COPY pyproject.toml README.md LICENSE /src/
COPY docs/hooks /src/docs/hooks
COPY recipes /src/recipes
COPY zoo /src/zoo
RUN /opt/zoo/bin/pip install --no-cache-dir "/src[export,medical,formats]" && rm -rf /src
# Decoded images, downloads, compiled kernels and measurements of zoo, torch and the Hugging Face Hub.
ENV PATH=/opt/zoo/bin:$PATH XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
# Anybody may write there, so that `docker run --user` works with any id.
RUN useradd --create-home zoo && install -d -m 1777 /cache /data
USER zoo
VOLUME /cache
WORKDIR /data
ENTRYPOINT ["zoo"]
CMD ["--help"]
