{{- define "sluice.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end -}}
{{- end -}}
{{- end }}

{{/* What a pod is found by; part of a selector that cannot be changed later. Takes the component. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Takes a list: root, component. */}}
{{- define "sluice.labels" -}}
{{ include "sluice.selector" (index . 1) }}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
{{- end }}

{{/* Takes a list: root, component, the component's values. */}}
{{- define "sluice.podMetadata" -}}
{{- $own := index . 2 -}}
labels:
  {{- include "sluice.labels" . | nindent 2 }}
  {{- with $own.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $own.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a pod may run, and as whom. Takes a list: root, component, the component's values. */}}
{{- define "sluice.pod" -}}
{{- $root := index . 0 -}}
{{- $own := index . 2 -}}
serviceAccountName: sluice-{{ index . 1 }}
automountServiceAccountToken: true
# Variables named after services are no settings.
enableServiceLinks: false
priorityClassName: {{ $root.Values.priorityClass.name }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a component listens. */}}
{{- define "sluice.port" -}}
{{ ternary "3000" "8080" (eq . "dashboard") }}
{{- end }}

{{/* What every container has. Takes a list: root, component, the component's values. */}}
{{- define "sluice.container" -}}
{{- $root := index . 0 -}}
image: {{ include "sluice.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: [{{ index . 1 }}]
ports:
  - {name: http, containerPort: {{ include "sluice.port" (index . 1) }}}
resources:
  {{- toYaml (index . 2).resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
# Neither probe asks the API server: an outage of it must not restart anything.
startupProbe:
  httpGet: {path: /api/health, port: http}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /api/health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /ready, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end }}

{{/* The settings that every process has. Takes a list: root, component. */}}
{{- define "sluice.env" -}}
{{- with (index . 0).Values -}}
- {name: SLUICE_LISTEN, value: "{{ .listenHost }}:{{ include "sluice.port" (index $ 1) }}"}
- {name: SLUICE_LOG_FORMAT, value: {{ .logFormat }}}
- {name: SLUICE_LOG_LEVEL, value: {{ .logLevel }}}
{{- $hosts := .allowedHosts }}
{{- with .controller.dashboardUrl }}
{{- $hosts = append $hosts (urlParse .).hostname | uniq }}
{{- end }}
{{- with $hosts }}
- {name: SLUICE_ALLOWED_HOST, value: {{ join " " . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The settings by which agents and controller go alike. */}}
{{- define "sluice.paceEnv" -}}
- name: SLUICE_SYSTEM_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: SLUICE_REPORT_CEILING, value: {{ .Values.reportCeilingSeconds | quote }}}
- {name: SLUICE_HEARTBEAT, value: {{ .Values.heartbeatSeconds | quote }}}
{{- with .Values.namespaceLabels }}
- {name: SLUICE_NAMESPACE_LABEL, value: {{ join " " . | quote }}}
{{- end }}
{{- end }}

{{/*
The egress rules that let a process reach a URL. A host of one name is a service of this namespace,
NAME.NAMESPACE.svc one of another; of two names it may be a service or a site: both. Takes a list:
root, URL, peers that replace what follows from the URL.
*/}}
{{- define "sluice.toUrl" -}}
{{- $url := urlParse (index . 1) -}}
{{- $host := regexReplaceAll ":[0-9]+$" $url.host "" -}}
{{- $port := trimPrefix ":" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- $names := splitList "." $host -}}
{{- $isService := and (ge (len $names) 3) (eq (index (append (append $names "") "") 2) "svc") -}}
{{- $isShort := and (le (len $names) 2) (not (contains ":" $host)) -}}
{{- if index . 2 -}}
- to:
    {{- toYaml (index . 2) | nindent 4 }}
{{- else -}}
{{- if or $isService $isShort -}}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ index (append $names (index . 0).Release.Namespace) 1 }}}
{{ end -}}
{{- if not (or $isService (and $isShort (eq (len $names) 1))) -}}
- ports:
    - {port: {{ $port }}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Egress that every process needs. */}}
{{- define "sluice.toCluster" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.apiServer }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
