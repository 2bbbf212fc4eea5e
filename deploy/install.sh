#!/bin/sh
# Inside the Dockerfile: fills the environment of an image, in two steps, so that a change of sources is a quick build.
#   install.sh dependencies EXTRA [REQUIREMENT...]   what Caveat and one of its extras need
#   install.sh without PACKAGE...                    takes out what this image's process does not use
#   install.sh caveat                                those of Caveat's packages that were copied; then it is finished
set -eu

environment=/opt/caveat

install() {
  /opt/build/bin/pip --python $environment/bin/python install --quiet --no-compile --only-binary :all: "$@"
}

dependencies() {
  extra=$1
  shift
  # Without pip: nothing is installed in an image that runs.
  python3 -m venv --without-pip $environment
  # A wheel with nothing in it but what it needs.
  for package in api_spec vault reports telemetry service worker caveat; do
    mkdir "$package"
    touch "$package/__init__.py"
  done
  /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /empty .
  rm -r api_spec vault reports telemetry service worker caveat
  install --constraint /constraints/all.txt --constraint /constraints/images.txt "$(echo /empty/*.whl)[$extra]" "$@"
  # Tests and headers are of no use to a process; NumPy imports its own.
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
  # Scripts for other shells, and where the wheel lay, which is a folder that is gone.
  rm -f $environment/bin/[Aa]ctivate* $environment/lib/python3*/site-packages/caveat-*.dist-info/direct_url.json
  # What is in the image, for those who look for vulnerabilities; the base's packages are in its own database.
  /opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON \
    --output-file $environment/sbom.cdx.json $environment/bin/python
}

# By content and not by time, so that builds repeat and a root that cannot be written starts fast.
compile() {
  $environment/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash $environment/lib
}

"$@"
