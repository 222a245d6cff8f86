{{/* The name of every object. Nothing is cut short: two long names must not become one. */}}
{{- define "pointsman.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full = default $full .Values.fullnameOverride -}}
{{- if or (gt (len $full) 54) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full)) -}}
{{- fail (printf "%q can be no Service's name: set fullnameOverride to at most 54 lower-case letters, digits and hyphens, of which the first is a letter" $full) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* The extension server's name. */}}
{{- define "pointsman.gateway" -}}{{ include "pointsman.fullname" . }}-gateway{{- end -}}

{{- define "pointsman.serviceAccount" -}}{{ default (include "pointsman.fullname" .) .Values.picker.serviceAccount.name }}{{- end -}}
{{- define "pointsman.gatewayServiceAccount" -}}{{ default (include "pointsman.gateway" .) .Values.extensionServer.serviceAccount.name }}{{- end -}}
{{- define "pointsman.poolNamespace" -}}{{ default .Release.Namespace .Values.poolNamespace }}{{- end -}}

{{- define "pointsman.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a component's objects are called; dict context, component. */}}
{{- define "pointsman.componentName" -}}
{{ include (ternary "pointsman.fullname" "pointsman.gateway" (eq .component "picker")) .context }}
{{- end -}}

{{/* The port that Envoy listens on in standalone mode. */}}
{{- define "pointsman.listenPort" -}}{{ regexFind "[0-9]+$" .Values.standalone.listen }}{{- end -}}

{{/* What a selector has; dict context, component. */}}
{{- define "pointsman.selector" -}}
app.kubernetes.io/name: {{ default .context.Chart.Name .context.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .context.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "pointsman.labels" -}}
{{ include "pointsman.selector" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ .context.Chart.Name }}-{{ .context.Chart.Version }}
{{- with .context.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels; dict context, component, name, and what is not always there: namespace, annotations, labels. */}}
{{- define "pointsman.metadata" -}}
name: {{ .name | quote }}
{{- if ne (default "" .namespace) "none" }}
namespace: {{ default .context.Release.Namespace .namespace | quote }}
{{- end }}
labels:
  {{- include "pointsman.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) .context.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
