# Caveat's images: api, worker, worker-gpu, cli. `make images` builds, starts and measures them (docs/operations.md).
#
# BASE_IMAGE needs a Python that pyproject.toml accepts, its `venv` module, and glibc. Name it by digest if builds have to
# be reproducible. Everything is installed from wheels, so no stage has a compiler.
#
# Pass the commit as a label: --label org.opencontainers.image.revision=$(git rev-parse HEAD)
#
# If packages come from an index of your own, pass its settings as secrets; they leave no trace in the image:
#   --secret id=pip-conf,src=/etc/pip.conf --secret id=ca-bundle,src=/etc/ssl/certs/ca-certificates.crt
ARG BASE_IMAGE=python:3.12-slim-bookworm

# ---- build tools: pip, in an environment that does not reach the images ------------------------------------------------
# hadolint ignore=DL3006 - the tag is in BASE_IMAGE
FROM ${BASE_IMAGE} AS tools
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH}
WORKDIR /src
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/build \
 && /opt/build/bin/pip install --quiet --no-compile --only-binary :all: pip==26.3 hatchling==1.33.0 cyclonedx-bom==7.5.0
COPY deploy/install.sh /usr/local/bin/
COPY constraints.txt /constraints/all.txt
COPY deploy/constraints.txt /constraints/images.txt
COPY deploy/hashes /constraints/hashes
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY docs/man docs/man

# ---- one environment per image: first what seldom changes, then the packages of Caveat that its process uses -----------
# The drivers of databases and buckets can be chosen. The default is PostgreSQL and S3; Google's buckets need gcsfs.
FROM tools AS build-api
ARG DRIVERS="psycopg[binary] s3fs"
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/etc/ssl/certs/ca-certificates.crt \
    install.sh dependencies service ${DRIVERS}
COPY api_spec api_spec
COPY storage storage
COPY telemetry telemetry
COPY reports reports
COPY service service
COPY client client
RUN install.sh caveat

# A worker sends no requests and renders no reports, so the packages that only the command needs are removed.
FROM tools AS build-worker
ARG DRIVERS="psycopg[binary] s3fs"
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/etc/ssl/certs/ca-certificates.crt \
    install.sh dependencies worker ${DRIVERS} \
 && install.sh without ruamel.yaml stamina tenacity jinja2
COPY api_spec api_spec
COPY storage storage
COPY telemetry telemetry
COPY worker worker
RUN install.sh caveat

FROM tools AS build-worker-gpu
ARG DRIVERS="psycopg[binary] s3fs"
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/etc/ssl/certs/ca-certificates.crt \
    install.sh dependencies worker-gpu ${DRIVERS} \
 && install.sh without ruamel.yaml stamina tenacity jinja2
COPY api_spec api_spec
COPY storage storage
COPY telemetry telemetry
COPY worker worker
RUN install.sh caveat

FROM tools AS build-cli
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/etc/ssl/certs/ca-certificates.crt \
    install.sh dependencies signing
COPY api_spec api_spec
COPY storage storage
COPY reports reports
COPY client client
RUN install.sh caveat

# ---- what all images share -----------------------------------------------------------------------------------------
# hadolint ignore=DL3006 - as above
FROM ${BASE_IMAGE} AS runtime
# A name for the user id, and a home that is writable where nothing else is. useradd would record today's date.
RUN echo "caveat:x:10001:10001::/tmp:/usr/sbin/nologin" >> /etc/passwd \
 && echo "caveat:x:10001:" >> /etc/group \
 && install -d -o 10001 -g 10001 /var/lib/caveat /work
ENV PATH=/opt/caveat/bin:${PATH} HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/caveat
USER 10001:10001
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Caveat" \
      org.opencontainers.image.description="Audits ONNX models with concepts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

# ---- the API ---------------------------------------------------------------------------------------------------------
FROM runtime AS api
COPY --from=build-api /opt/caveat /opt/caveat
ENV CAVEAT_HOST=0.0.0.0 CAVEAT_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"CAVEAT_PORT\"]}/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "caveat_service"]

# ---- the worker: Celery is the first process and receives SIGTERM itself ---------------------------------------------
FROM runtime AS worker
COPY --from=build-worker /opt/caveat /opt/caveat
ENV CAVEAT_REQUIRE_SANDBOX=true CAVEAT_HEARTBEAT_FILE=/tmp/heartbeat CAVEAT_CACHE_FOLDER=/tmp/cache
HEALTHCHECK --interval=60s --timeout=5s --start-period=60s --retries=5 \
  CMD ["sh", "-c", "find /tmp/heartbeat -mmin -5 | grep -q ."]
ENTRYPOINT ["celery", "-q", "-A", "caveat_worker.jobs.app", "worker", "--without-gossip", "--without-mingle"]

FROM runtime AS worker-gpu
COPY --from=build-worker-gpu /opt/caveat /opt/caveat
ENV CAVEAT_REQUIRE_SANDBOX=true CAVEAT_HEARTBEAT_FILE=/tmp/heartbeat CAVEAT_CACHE_FOLDER=/tmp/cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
HEALTHCHECK --interval=60s --timeout=5s --start-period=60s --retries=5 \
  CMD ["sh", "-c", "find /tmp/heartbeat -mmin -5 | grep -q ."]
ENTRYPOINT ["celery", "-q", "-A", "caveat_worker.jobs.app", "worker", "--without-gossip", "--without-mingle"]

# ---- the command, for CI; last, so that a plain `build` makes the small one ------------------------------------------
FROM runtime AS cli
COPY --from=build-cli /opt/caveat /opt/caveat
WORKDIR /work
# The command runs once and ends, so there is no health to check.
HEALTHCHECK NONE
ENTRYPOINT ["caveat"]
