#!/usr/bin/env bash
# Closes the gate with nothing but curl, sha256sum and sed: for runners that have no Python.
#
#   CAVEAT_URL=https://caveat.example CAVEAT_KEY=caveat_... pre-merge.sh audit.json [RESULTS]
#
# audit.json is an audit file as JSON; a source that is a file is written with an @ before its path, relative to
# audit.json: "model": "@model.onnx". Pictures come as a zip or a tar. The same question is asked once: a build that
# runs again without a change gets the audit that is there. To have it done anew, set CAVEAT_ATTEMPT to anything new.
#
# Exits as `caveat gate` does: 0 the gate passes, 1 it fails, 2 the audit is not valid, 3 the machinery failed,
# 4 the evidence settles nothing.
set -euo pipefail

audit=${1:?"Usage: pre-merge.sh audit.json [RESULTS]"}
results=${2:-caveat-results}
: "${CAVEAT_URL:?"Set CAVEAT_URL to a Caveat service."}"
url=${CAVEAT_URL%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results"

# The key goes to curl through a file that only we read: a command line is seen by every process.
(umask 077 && { [ -z "${CAVEAT_KEY:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$CAVEAT_KEY"; } > "$work/key")

say() { printf '%s\n' "$*" >&2; }

# ask FILE OPTION... URL: the answer's body goes to FILE, its status to standard output.
ask() {
  local into=$1
  shift
  curl -sS -K "$work/key" --retry 5 --retry-connrefused -o "$into" -w '%{http_code}' "$@" || {
    say "Error: $url does not answer."
    exit 3
  }
}

# refused STATUS BODY: shows the problem and exits, 2 where what was asked is at fault, 3 otherwise.
refused() {
  say "Error: $(cat "$2")"
  case $1 in 400 | 404 | 409 | 413 | 415 | 422) exit 2 ;; *) exit 3 ;; esac
}

cp "$audit" "$work/audit.json"
while read -r source; do
  file=$(dirname "$audit")/$source
  [ -f "$file" ] || { say "Error: there is no $file, which $audit names."; exit 2; }
  digest="sha256:$(sha256sum "$file" | cut -d ' ' -f 1)"
  if [ "$(ask /dev/null -I "$url/v1/blobs/$digest")" != 200 ]; then
    say "uploading $source"
    status=$(ask "$work/answer" -T "$file" "$url/v1/blobs/$digest")
    case $status in 200 | 201) ;; *) refused "$status" "$work/answer" ;; esac
  fi
  quoted=$(printf '%s' "$source" | sed 's/[][\.*^$|&]/\\&/g')
  sed -i "s|\"@$quoted\"|\"$digest\"|g" "$work/audit.json"
done < <(grep -o '"@[^"]*"' "$audit" | sort -u | sed 's/^"@//; s/"$//')

question=$(sha256sum "$work/audit.json" | cut -d ' ' -f 1)${CAVEAT_ATTEMPT:+-$CAVEAT_ATTEMPT}
status=$(ask "$work/record" --data-binary "@$work/audit.json" -H 'Content-Type: application/json' \
  -H "Idempotency-Key: $question" -H 'Prefer: wait=30' "$url/v1/audits")
case $status in 200 | 202) ;; *) refused "$status" "$work/record" ;; esac
id=$(sed -n 's/^{"id":"\([0-9a-z]*\)".*/\1/p' "$work/record")

while :; do
  state=$(sed -n 's/^{"id":"[^"]*","state":"\([a-z]*\)".*/\1/p' "$work/record")
  case $state in
    succeeded) break ;;
    queued | running) ;;
    *)
      problem=$(sed -n 's/.*"problem":\({"type":.*\),"audit":.*/\1/p' "$work/record")
      say "Error: audit $id ${state:-is lost}. $problem"
      case $problem in *'"status":4'*) exit 2 ;; *) exit 3 ;; esac
      ;;
  esac
  sleep 2
  status=$(ask "$work/record" "$url/v1/audits/$id")
  [ "$status" = 200 ] || refused "$status" "$work/record"
done

for form in application/json:report.json text/html:report.html text/markdown:report.md application/xml:junit.xml; do
  status=$(ask "$results/${form#*:}" -H "Accept: ${form%%:*}" "$url/v1/audits/$id/report")
  [ "$status" = 200 ] || refused "$status" "$results/${form#*:}"
done
status=$(ask "$work/attestation" "$url/v1/audits/$id/attestation")
if [ "$status" = 200 ]; then cp "$work/attestation" "$results/report.dsse.json"; fi

outcome=$(sed -n 's/.*"outcome":"\{0,1\}\([a-z]*\)"\{0,1\},"report_digest".*/\1/p' "$work/record")
say "Audit $id: ${outcome/null/no gate}. The reports are in $results."
case $outcome in
  pass | null) exit 0 ;;
  fail) exit 1 ;;
  inconclusive) exit 4 ;;
  *) say 'Error: the answer has no outcome.'; exit 3 ;;
esac
