# The package in an image whose command is `implicit-rl`. For the CPU, or for NVIDIA GPUs:
#   docker build -t implicit_rl .
#   docker build -t implicit_rl:gpu --build-arg EXTRAS=gpu .
# Runs go to /lab/runs; make the directory first, or Docker makes it as root:
#   mkdir -p runs
#   docker run --rm -v "$PWD/runs:/lab/runs" --user "$(id -u)" implicit_rl demo
#   docker run --rm --gpus all -v "$PWD/runs:/lab/runs" --user "$(id -u)" implicit_rl:gpu train ...
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /source
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE CHANGELOG.md CITATION.cff ./
COPY implicit_rl implicit_rl
COPY gin_configs gin_configs
COPY sweeps sweeps
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim-bookworm
# Those of setup.py, comma-separated: gpu brings CUDA, ray and wandb their libraries.
ARG EXTRAS=
# Atari's frames are scaled by OpenCV, which needs these two.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
  && rm -rf /var/lib/apt/lists/*
COPY --from=build /dist /dist
RUN python -m pip install --no-cache-dir "$(echo /dist/*.whl)${EXTRAS:+[$EXTRAS]}"
# Any user may run it; compiled programs and matplotlib's cache go to HOME.
RUN mkdir -p /lab/runs /home/user && chmod -R a+rwX /lab /home/user
ENV HOME=/home/user USER=user
WORKDIR /lab
ENTRYPOINT ["implicit-rl"]
CMD ["--help"]
