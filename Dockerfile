# One image for every role: the role is the command.
#
#   docker build -t ganger .
#   docker run ganger dispatcher
#   docker run -v ./tasks:/app ganger worker tasks:app --label memory=512
#
# Build your own on it to add what your steps need:
#
#   FROM ganger
#   COPY --chown=ganger tasks.py /app/
#   RUN pip install --user -r requirements.txt

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY broker broker
COPY worker worker
COPY dispatcher dispatcher
COPY requirements requirements
# the versions that the tests run with
RUN pip wheel --no-cache-dir --wheel-dir /wheels --constraint requirements/dev.txt '.[dispatcher]'

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home ganger
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels 'ganger[dispatcher]' \
    && rm -r /wheels
# ganger, as the number that Kubernetes has to see to know that it is not root
USER 10001
WORKDIR /app
ENV PYTHONUNBUFFERED=1 \
    GANGER_LOG_FORMAT=json \
    GANGER_HEALTH_FILE=/tmp/ganger-alive
# healthy is who gets on: the file is touched at each confirmed heartbeat, or look at the lease
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD test $(( $(date +%s) - $(stat -c %Y "$GANGER_HEALTH_FILE") )) -lt 30
ENTRYPOINT ["ganger"]
CMD ["--help"]
