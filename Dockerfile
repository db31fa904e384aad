# For GPU users: the package, its bundles and PyTorch with CUDA. Nobody here has built it.
#   docker build -t synthetic-lesions .
#   docker run --rm --gpus all --user "$(id -u)" -e HOME=/tmp -v "$PWD/data:/data" synthetic-lesions synthesize --scan /data/scans --out /data/out
#   docker run --rm --gpus all --user "$(id -u)" -e HOME=/tmp -v "$PWD/data:/data" --entrypoint python synthetic-lesions -m monai.bundle run training \
#     --config_file bundles/lefusion_lidc/configs/train.json --dataset_dir /data/crops --output_dir /data/runs
FROM python:3.11-slim
WORKDIR /opt/synthetic-lesions
# requirements first: their layer is kept while the code changes; torch from PyPI brings CUDA
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .
# what it reads may be anybody's: not as root; give it folders it may write with --user "$(id -u)"
RUN useradd --create-home --uid 1000 lesions
USER lesions
ENTRYPOINT ["synthetic-lesions"]
CMD ["--help"]
