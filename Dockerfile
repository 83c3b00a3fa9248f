# The greeter of examples/, with pymicro from this checkout. For a service of yours
# take `pip install pymicro-grpc` instead of the wheel built here; the rest is the same.
#
#   docker build -t pymicro-greeter:dev .
#   docker run --rm pymicro-greeter:dev
ARG PYTHON=3.14

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pymicro pymicro
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .
# With the generator, which the image does not get; what is installed then fixes the
# versions for the image: generated code refuses an older runtime.
RUN python -m pip install --no-cache-dir "$(echo /dist/*.whl)[tools,tls]" \
    && python -m pip freeze --exclude pymicro-grpc > /dist/constraints.txt
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir --constraint /dist/constraints.txt \
        "$(echo /dist/*.whl)[tls]"
COPY protos protos
COPY examples/greeter /app
RUN python -m pymicro gen --out /app protos \
    && python -m compileall -q /app

FROM python:${PYTHON}-slim
COPY --from=build /venv /venv
COPY --from=build /app /app
# Log lines must come out when they are written. The file system is read-only in deploy/.
# It listens on the port below outside of Kubernetes too, where the default is this machine only.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MICRO_SERVER_ADDRESS=0.0.0.0:8080
WORKDIR /app
# A number, so that runAsNonRoot can be checked; nobody owns a file here.
USER 65532:65532
EXPOSE 8080
CMD ["python", "-m", "pymicro", "run", "server.py"]
