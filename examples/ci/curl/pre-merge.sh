#!/usr/bin/env bash
# Runs the gate with only curl, sha256sum and sed, for runners without Python.
#
#   CAVEAT_URL=https://caveat.example CAVEAT_KEY=caveat_... pre-merge.sh audit.json [RESULTS]
#
# audit.json is an audit file as JSON. Write an @ before each path, which is relative to audit.json:
# "model": "@model.onnx". Pictures have to be packed as a zip or a tar. A build that runs again without a change gets the
# result of the earlier audit; to repeat the audit, set CAVEAT_ATTEMPT to a new value.
#
# Exit codes are those of `caveat gate`: 0 the gate passes, 1 it fails, 2 the audit is invalid, 3 the infrastructure
# failed, 4 the evidence is inconclusive.
set -euo pipefail

audit=${1:?"Usage: pre-merge.sh audit.json [RESULTS]"}
results=${2:-caveat-results}
: "${CAVEAT_URL:?"Set CAVEAT_URL to a Caveat service."}"
url=${CAVEAT_URL%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results"

# The key goes to curl through a file that only this user can read: every process can see command lines.
(umask 077 && { [ -z "${CAVEAT_KEY:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$CAVEAT_KEY"; } > "$work/key")

say() { printf '%s\n' "$*" >&2; }

# request FILE OPTION... URL: writes the response's body to FILE, and its status to standard output.
request() {
  local into=$1
  shift
  curl -sS -K "$work/key" --retry 5 --retry-connrefused -o "$into" -w '%{http_code}' "$@" || {
    say "Error: $url does not respond."
    exit 3
  }
}

# fail STATUS BODY: shows the problem and exits with 2 if the request was invalid, otherwise with 3.
fail() {
  say "Error: $(cat "$2")"
  case $1 in 400 | 404 | 409 | 413 | 415 | 422) exit 2 ;; *) exit 3 ;; esac
}

cp "$audit" "$work/audit.json"
while read -r source; do
  file=$(dirname "$audit")/$source
  [ -f "$file" ] || { say "Error: there is no $file, which $audit names."; exit 2; }
  digest="sha256:$(sha256sum "$file" | cut -d ' ' -f 1)"
  if [ "$(request /dev/null -I "$url/v1/blobs/$digest")" != 200 ]; then
    say "uploading $source"
    status=$(request "$work/response" -T "$file" "$url/v1/blobs/$digest")
    case $status in 200 | 201) ;; *) fail "$status" "$work/response" ;; esac
  fi
  quoted=$(printf '%s' "$source" | sed 's/[][\.*^$|&]/\\&/g')
  sed -i "s|\"@$quoted\"|\"$digest\"|g" "$work/audit.json"
done < <(grep -o '"@[^"]*"' "$audit" | sort -u | sed 's/^"@//; s/"$//')

question=$(sha256sum "$work/audit.json" | cut -d ' ' -f 1)${CAVEAT_ATTEMPT:+-$CAVEAT_ATTEMPT}
status=$(request "$work/record" --data-binary "@$work/audit.json" -H 'Content-Type: application/json' \
  -H "Idempotency-Key: $question" -H 'Prefer: wait=30' "$url/v1/audits")
case $status in 200 | 202) ;; *) fail "$status" "$work/record" ;; esac
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
  status=$(request "$work/record" "$url/v1/audits/$id")
  [ "$status" = 200 ] || fail "$status" "$work/record"
done

for form in application/json:report.json text/html:report.html text/markdown:report.md application/xml:junit.xml; do
  status=$(request "$results/${form#*:}" -H "Accept: ${form%%:*}" "$url/v1/audits/$id/report")
  [ "$status" = 200 ] || fail "$status" "$results/${form#*:}"
done
status=$(request "$work/attestation" "$url/v1/audits/$id/attestation")
if [ "$status" = 200 ]; then cp "$work/attestation" "$results/report.dsse.json"; fi

outcome=$(sed -n 's/.*"outcome":"\{0,1\}\([a-z]*\)"\{0,1\},"report_digest".*/\1/p' "$work/record")
say "Audit $id: ${outcome/null/no gate}. The reports are in $results."
case $outcome in
  pass | null) exit 0 ;;
  fail) exit 1 ;;
  inconclusive) exit 4 ;;
  *) say 'Error: the response has no outcome.'; exit 3 ;;
esac
