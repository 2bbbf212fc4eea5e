{{/* Parts shared by all pods, which comply with the Pod Security Standard "restricted". */}}

{{/*
The start of a pod's spec: dict "root" . "account" NAME "grace" SECONDS "user" UID "seccomp" PROFILE "about" VALUES
No service links: Kubernetes would set CAVEAT_PORT=tcp://... for a Service named "caveat", and CAVEAT_PORT is a setting.
*/}}
{{- define "caveat.podSpec" -}}
{{- $about := default dict .about -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {{- default (dict "type" "RuntimeDefault") .seccomp | toYaml | nindent 4 }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $about.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $about.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $about.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $about.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "caveat.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
Spreads pods over nodes and zones, as far as possible: dict "root" . "component" NAME
*/}}
{{- define "caveat.spread" -}}
{{- with .root.Values.topologySpread.keys -}}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "caveat.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
Keeps all pods on the node of a volume that only one node can mount: dict "root" . "about" VALUES
*/}}
{{- define "caveat.affinity" -}}
{{- $stay := and (include "caveat.keepsVolume" .root) (eq .root.Values.blobs.volume.accessMode "ReadWriteOnce") -}}
{{- if .about.affinity -}}
affinity: {{- toYaml .about.affinity | nindent 2 }}
{{- else if $stay -}}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/instance: {{ .root.Release.Name }}
            caveat/blobs: volume
{{- end -}}
{{- end -}}

{{/* A variable from a Secret: dict "name" N "secret" S "key" K */}}
{{- define "caveat.fromSecret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end -}}

{{/* A variable with a URL of the database: dict "root" . "name" "CAVEAT_DATABASE_URL" "part" "api" */}}
{{- define "caveat.databaseUrl" -}}
{{- $database := include "caveat.databaseOf" . | fromJson -}}
{{ include "caveat.fromSecret" (dict "name" .name "secret" $database.secret "key" $database.key) }}
{{- end -}}

{{/* The URLs of the services, for "api" or "worker"; secrets come from Secrets: dict "root" . "part" "api" */}}
{{- define "caveat.places" -}}
{{ include "caveat.databaseUrl" (dict "root" .root "name" "CAVEAT_DATABASE_URL" "part" .part) }}
{{ include "caveat.fromSecret" (dict "name" "CAVEAT_BROKER_URL" "secret" (include "caveat.brokerSecret" .root) "key" (include "caveat.brokerKey" .root)) }}
{{- with .root.Values.blobs.s3 }}
{{- if .existingSecret }}
{{ include "caveat.fromSecret" (dict "name" "AWS_ACCESS_KEY_ID" "secret" .existingSecret "key" .accessKeyIdKey) }}
{{ include "caveat.fromSecret" (dict "name" "AWS_SECRET_ACCESS_KEY" "secret" .existingSecret "key" .secretAccessKeyKey) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The URLs that are not secret. */}}
{{- define "caveat.blobSettings" -}}
CAVEAT_BLOBS_URL: {{ default "/var/lib/caveat/blobs" .Values.blobs.url | quote }}
{{- with .Values.blobs.s3.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- with .Values.blobs.s3.region }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The tracing settings of the API and the workers. */}}
{{- define "caveat.tracing" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ .endpoint | quote }}
OTEL_TRACES_SAMPLER: parentbased_traceidratio
OTEL_TRACES_SAMPLER_ARG: {{ .ratio | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Settings from the values, as strings for a ConfigMap; large numbers are not written as 1e+06. */}}
{{- define "caveat.settings" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ if and (kindIs "float64" $value) (eq $value (floor $value)) }}{{ int64 $value | quote }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end -}}
