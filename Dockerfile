# ldm-train with everything that it needs, for CUDA (the default) or for a CPU only:
#   docker build -t ldm-train .
#   docker build -t ldm-train:cpu --build-arg TORCH=cpu .
# docs/installation.md says how to start it; compose.yaml starts it together with TensorBoard.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# torch.compile needs a C++ compiler; everything else comes as wheels.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# cuda: PyPI's wheels of torch bring CUDA's libraries, so that the host needs no more than a driver. cpu: a sixth of the size.
ARG TORCH=cuda
ARG EXTRAS=quickstart
WORKDIR /opt/ldm-train
COPY constraints.txt ./
RUN if [ "$TORCH" = cpu ]; then pip install --no-cache-dir uv && install="uv pip install --system --torch-backend cpu"; else install="pip install"; fi \
    && $install --no-cache-dir $(grep -E "^(torch|torchvision)==" constraints.txt)
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY ldm_train ldm_train
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]" && ldm-train --help

# What a run writes belongs to this user; compose.yaml sets the one who starts it.
RUN useradd --create-home --uid 1000 trainer && mkdir /ldm && chown trainer /ldm
USER trainer
WORKDIR /ldm
ENV HOME=/ldm HF_HOME=/ldm/caches/huggingface
ENTRYPOINT ["ldm-train"]
CMD ["--help"]
