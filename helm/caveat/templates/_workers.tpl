{{/* The settings of a pool's pods: dict "root" . "pool" POOL */}}
{{- define "caveat.workerSettings" -}}
{{- $pool := .pool -}}
{{ include "caveat.blobSettings" .root }}
CAVEAT_QUEUES: {{ join "," $pool.serves | quote }}
CAVEAT_CONCURRENCY: {{ int64 $pool.concurrency | quote }}
CAVEAT_THREADS: {{ int64 $pool.threads | quote }}
CAVEAT_MEMORY_BYTES: {{ mul (int64 $pool.jobMemoryMi) 1048576 | quote }}
CAVEAT_GRACE_SECONDS: {{ int64 $pool.graceSeconds | quote }}
CAVEAT_CACHE_BYTES: {{ mul (int64 $pool.cacheGi) 1073741824 | quote }}
CAVEAT_CACHE_FOLDER: /tmp/cache
CAVEAT_SHARED_MODELS_BYTES: {{ mul (int64 $pool.sharedModelsGi) 1073741824 | quote }}
CAVEAT_HEARTBEAT_FILE: /tmp/heartbeat
{{- if $pool.netrcSecret }}
CAVEAT_SOURCE_NETRC: /etc/caveat/sources/netrc
{{- end }}
{{- include "caveat.tracing" .root }}
{{- include "caveat.settings" $pool.settings }}
{{- end -}}

{{/* A command that checks the heartbeat file with `find`; it avoids Python, which takes a while to start. */}}
{{- define "caveat.heartbeat" -}}
{{ list "sh" "-c" (printf "find /tmp/heartbeat %s | grep -q ." .) | toJson }}
{{- end -}}
