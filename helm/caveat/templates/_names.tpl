{{/* Names and labels. */}}

{{- define "caveat.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The selector of a component's pods, which must never change: dict "root" . "component" "api" */}}
{{- define "caveat.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "caveat.labels" -}}
{{ include "caveat.selector" . }}
app.kubernetes.io/part-of: caveat
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The metadata of an object: dict "root" . "component" "api" "suffix" "api" */}}
{{- define "caveat.metadata" -}}
name: {{ include "caveat.fullname" .root }}-{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "caveat.labels" . | nindent 2 }}
{{- end -}}

{{/* An image of Caveat: dict "root" . "image" "api" */}}
{{- define "caveat.image" -}}
{{- $images := .root.Values.images -}}
{{- $image := index $images .image -}}
{{- with $images.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .root.Chart.AppVersion $images.tag }}{{ end -}}
{{- end -}}

{{/* A third-party image. */}}
{{- define "caveat.foreignImage" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}

{{- define "caveat.bringsValkey" -}}{{ if not .Values.broker.existingSecret }}yes{{ end }}{{- end -}}
{{- define "caveat.bringsPostgresql" -}}{{ if not .Values.database.existingSecret }}yes{{ end }}{{- end -}}
{{- define "caveat.keepsVolume" -}}{{ if not .Values.blobs.url }}yes{{ end }}{{- end -}}
{{- define "caveat.ownSecret" -}}{{ include "caveat.fullname" . }}-trial{{- end -}}
{{- define "caveat.databaseSecret" -}}{{ default (include "caveat.ownSecret" .) .Values.database.existingSecret }}{{- end -}}

{{/*
Who uses which role of the database, as JSON with a Secret and its key: dict "root" . "part" "api". The included PostgreSQL gets
a role for each part from the migration.
*/}}
{{- define "caveat.databaseOf" -}}
{{- $said := index .root.Values.database .part -}}
{{- $made := and (include "caveat.bringsPostgresql" .root) .root.Values.migration.enabled -}}
{{- if $said.existingSecret -}}
{{ dict "secret" $said.existingSecret "key" $said.key | toJson }}
{{- else if $made -}}
{{ dict "secret" (printf "%s-%s" (include "caveat.ownSecret" .root) .part) "key" "database-url" | toJson }}
{{- else -}}
{{ dict "secret" (include "caveat.databaseSecret" .root) "key" (include "caveat.databaseKey" .root) | toJson }}
{{- end -}}
{{- end -}}

{{/* Annotations of what runs before a release rolls out; nothing for the included PostgreSQL, which is not there before. */}}
{{- define "caveat.migrationHook" -}}
{{- if not (include "caveat.bringsPostgresql" .root) -}}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: {{ .policy }}
{{- end -}}
{{- end -}}

{{- define "caveat.brokerSecret" -}}{{ default (include "caveat.ownSecret" .) .Values.broker.existingSecret }}{{- end -}}
{{- define "caveat.databaseKey" -}}{{ ternary .Values.database.key "database-url" (ne .Values.database.existingSecret "") }}{{- end -}}
{{- define "caveat.brokerKey" -}}{{ ternary .Values.broker.key "broker-url" (ne .Values.broker.existingSecret "") }}{{- end -}}
{{- define "caveat.volumeClaim" -}}{{ default (printf "%s-blobs" (include "caveat.fullname" .)) .Values.blobs.volume.existingClaim }}{{- end -}}

{{/*
The enabled pools of workers, with defaults from `worker`, as JSON. Every queue is served: queues that no pool names are
served by the pools that name none or, if each names some, by all.
*/}}
{{- define "caveat.pools" -}}
{{- $pools := dict -}}
{{- $named := list -}}
{{- $all := true -}}
{{- range $name, $said := .Values.workers -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.worker) (deepCopy (default dict $said)) -}}
{{- if $pool.enabled }}
{{- $_ := set $pools $name $pool -}}
{{- $named = concat $named $pool.queues -}}
{{- $all = and $all (not (empty $pool.queues)) -}}
{{- end -}}
{{- end -}}
{{- $left := list -}}
{{- range list "default" "gpu" "large" }}{{ if not (has . $named) }}{{ $left = append $left . }}{{ end }}{{ end -}}
{{- range $name, $pool := $pools -}}
{{- $serves := list -}}
{{- range $queue := list "default" "gpu" "large" -}}
{{- $mine := or (has $queue $pool.queues) (and (has $queue $left) (or $all (empty $pool.queues))) -}}
{{- if $mine }}{{ $serves = append $serves $queue }}{{ end -}}
{{- end -}}
{{- if empty $serves -}}
{{- fail (printf "workers.%s serves no queue: other pools name all of them. Set workers.%s.queues." $name $name) -}}
{{- end -}}
{{- if and $pool.autoscaling.enabled (has "default" $serves) (lt (int $pool.autoscaling.minReplicas) 1) -}}
{{- fail (printf "workers.%s serves the queue default, so its autoscaling.minReplicas must be at least 1: a running worker has to publish jobs whose messages were lost." $name) -}}
{{- end -}}
{{- $_ := set $pool "serves" $serves -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{/* Whether any pool autoscales. */}}
{{- define "caveat.scales" -}}
{{- range $name, $pool := include "caveat.pools" . | fromJson }}{{ if $pool.autoscaling.enabled }}yes{{ end }}{{ end -}}
{{- end -}}
