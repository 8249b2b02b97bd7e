# The controller's image for users with Docker. The end-to-end scenarios make theirs without it (e2e/images/build);
# this file could not be tried on the machines that run them.
FROM docker.io/library/rust:1-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --bin sluice && cp target/release/sluice /sluice

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /sluice /sluice
USER 65532:65532
ENTRYPOINT ["/sluice"]
