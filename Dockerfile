# Installs exactly as the Makefile does. Built with: docker build --tag recap .
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /recap
COPY . .
RUN make install
ENTRYPOINT [".venv/bin/python", "-m", "recap.train"]
