#!/bin/sh
# Runs inside the Dockerfile and fills the environment of an image in two steps, so a change of sources builds quickly.
#   install.sh dependencies EXTRA [REQUIREMENT...]   installs what Caveat needs with one of its extras
#   install.sh without PACKAGE...                    removes packages that this image's process does not use
#   install.sh caveat                                installs the packages of Caveat that were copied, and finishes
set -eu

environment=/opt/caveat

install() {
  /opt/build/bin/pip --python $environment/bin/python install --quiet --no-compile --only-binary :all: "$@"
}

dependencies() {
  extra=$1
  shift
  # Without pip: nothing is installed into a running image.
  python3 -m venv --without-pip $environment
  # No folder has been copied yet, so this wheel has no package in it, only the names of its dependencies.
  /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /empty .
  # Each file has to be one whose digest was committed. Drivers that are not the default ones are pinned by version only.
  install --require-hashes --requirement "/constraints/hashes/$extra.txt"
  install --constraint /constraints/all.txt --constraint /constraints/images.txt "$(echo /empty/*.whl)[$extra]" "$@"
  # No process uses tests or headers, except NumPy, which imports its own tests.
  find $environment/lib -depth -type d \( -name tests -o -name include \) -path '*/site-packages/*' \
    -not -path '*/numpy/*' -exec rm -rf {} +
  compile
}

without() {
  /opt/build/bin/pip --python $environment/bin/python uninstall --quiet --yes "$@"
}

caveat() {
  /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels .
  install --no-deps --force-reinstall /wheels/*.whl
  compile
  # Activation scripts, and a record of the folder in which the wheel lay, which no longer exists.
  rm -f $environment/bin/[Aa]ctivate* $environment/lib/python3*/site-packages/caveat-*.dist-info/direct_url.json
  # The contents of the image, for vulnerability scanners; the packages of the base are in its own database.
  /opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON \
    --output-file $environment/sbom.cdx.json $environment/bin/python
}

# Checked by content and not by time, so that builds are reproducible and start fast on a read-only root.
compile() {
  $environment/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash $environment/lib
}

"$@"
