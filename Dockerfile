# Search and serve a trained model: no TensorFlow, no data sets.
#
#   docker build -t cl2cm .
#   docker run --rm -v "$PWD:/data" cl2cm search --model=bundle --images=photos "ein roter Apfel"
#   docker run --rm -p 8080:8080 -v "$PWD:/data" -e CL2CM_TOKEN=... cl2cm serve --model=bundle --index=photos.db --host=0.0.0.0
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
COPY requirements-serve.txt /wheels/
RUN pip install --no-cache-dir --require-hashes -r /wheels/requirements-serve.txt \
 && pip install --no-cache-dir --no-deps /wheels/*.whl \
 && useradd --create-home --uid 1000 cl2cm
USER 1000
WORKDIR /data
ENV JAX_PLATFORMS=cpu PYTHONUTF8=1
EXPOSE 8080
ENTRYPOINT ["cl2cm"]
CMD ["--help"]
