# broky's image: one static binary in an otherwise empty root.
#
#   docker build -t broky .                            compiles it; needs BuildKit and a registry that has rust
#   scripts/build-static && \
#   docker build -t broky --target prebuilt .          takes the binary that is there; needs neither
#
# Without arguments it runs a node, which listens on loopback until it is told otherwise: docker-compose.yml does.

# What both have in common. `prebuilt` comes before the stage that compiles: the builder of old runs every stage that
# stands above the one it is asked for.
FROM scratch AS root
# A named volume that is mounted here takes its owner from the image. There is no shell to make a folder with.
COPY --chown=65532:65532 packaging/data/ /data/
USER 65532:65532
EXPOSE 7400 7401 7401/udp 7402
STOPSIGNAL SIGTERM
ENTRYPOINT ["/broky"]
CMD ["serve"]

FROM root AS prebuilt
ARG BINARY=target/static/release/broky
COPY ${BINARY} /broky

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN scripts/build-static

FROM root
COPY --from=build /src/target/static/release/broky /broky
