{{/* What a picker does in the pools' namespace. */}}
{{- define "pointsman.poolRules" -}}
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [inference.networking.k8s.io], resources: [inferencepools], verbs: [get, list, watch]}
- {apiGroups: [inference.networking.x-k8s.io], resources: [inferencepools, inferencemodels, inferenceobjectives, inferencemodelrewrites], verbs: [get, list, watch]}
- {apiGroups: [llm-d.ai], resources: [inferenceobjectives, inferencemodelrewrites], verbs: [get, list, watch]}
- {apiGroups: [pointsman.dev], resources: [schedulingpolicies], verbs: [get, list, watch]}
- {apiGroups: [inference.networking.x-k8s.io], resources: [inferencemodels/status, inferenceobjectives/status, inferencemodelrewrites/status], verbs: [patch]}
- {apiGroups: [llm-d.ai], resources: [inferenceobjectives/status, inferencemodelrewrites/status], verbs: [patch]}
- {apiGroups: [pointsman.dev], resources: [schedulingpolicies/status], verbs: [patch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
{{- end -}}

{{/* What it does in its own namespace: the Lease that replicas share, and the CA. */}}
{{- define "pointsman.pickerOwnRules" -}}
{{- include "pointsman.leaseRules" (include "pointsman.fullname" .) }}
{{- if and (eq .Values.mode "gateway") (eq .Values.tls.mode "selfSigned") }}
{{ include "pointsman.trustRules" (printf "%s-ca" (include "pointsman.fullname" .)) }}
{{- end }}
{{- end -}}

{{- define "pointsman.leaseRules" -}}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, update], resourceNames: [{{ . }}]}
{{- end -}}

{{- define "pointsman.trustRules" -}}
- {apiGroups: [""], resources: [secrets, configmaps], verbs: [create]}
- {apiGroups: [""], resources: [secrets, configmaps], verbs: [get, update], resourceNames: [{{ . }}]}
{{- end -}}

{{/* dict context, component, name, account, and namespace where it is another than the release's. */}}
{{- define "pointsman.roleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- include "pointsman.metadata" . | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name | quote }}}
subjects:
- {{ toJson .account }}
{{- end -}}

{{- define "pointsman.clusterRoleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  {{- include "pointsman.metadata" (merge (dict "namespace" "none") .) | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .name | quote }}}
subjects:
- {{ toJson .account }}
{{- end -}}

{{/* Whoever asks for metrics is looked up. */}}
{{- define "pointsman.reviewRules" -}}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
{{- end -}}

{{/* A ClusterRole that allows that. dict context, component, name, account. */}}
{{- define "pointsman.reviewer" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  {{- include "pointsman.metadata" (merge (dict "namespace" "none") .) | nindent 2 }}
rules:
{{ include "pointsman.reviewRules" .context }}
---
{{ include "pointsman.clusterRoleBinding" . }}
{{- end -}}

{{/* What the extension server does in Envoy Gateway's namespace. */}}
{{- define "pointsman.handedOverRules" -}}
- {apiGroups: [""], resources: [secrets], verbs: [create]}
- {apiGroups: [""], resources: [secrets], verbs: [get, update], resourceNames: [{{ . }}-ca]}
- {apiGroups: [""], resources: [secrets], verbs: [get, update], resourceNames: [{{ . }}-client]}
{{- end -}}
