{{/* Objects that our programs fill. They are made here so that they go with the release, and carry no content, so that an
upgrade changes none of it. dict context, component, name, and namespace where it is another than the release's. */}}
{{- define "pointsman.keptMetadata" -}}
{{ include "pointsman.metadata" (merge (dict "labels" (dict "pointsman.dev/kept-by" "pointsman")) .) }}
{{- end -}}

{{- define "pointsman.keptSecret" -}}
apiVersion: v1
kind: Secret
metadata:
  {{- include "pointsman.keptMetadata" . | nindent 2 }}
type: Opaque
{{- end -}}

{{- define "pointsman.keptConfigMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "pointsman.keptMetadata" . | nindent 2 }}
{{- end -}}

{{- define "pointsman.keptLease" -}}
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  {{- include "pointsman.keptMetadata" . | nindent 2 }}
{{- end -}}
