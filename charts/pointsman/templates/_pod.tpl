{{/* What the pods of picker and extension server have alike. dict context, component, values, and podAnnotations. */}}
{{- define "pointsman.podMetadata" -}}
labels:
  {{- include "pointsman.labels" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .podAnnotations) .values.podAnnotations .context.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* dict context, component, values, serviceAccount, graceSeconds. */}}
{{- define "pointsman.podSpec" -}}
serviceAccountName: {{ .serviceAccount }}
terminationGracePeriodSeconds: {{ .graceSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .context.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if kindIs "slice" .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pointsman.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "pointsman.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What a pod is told of itself. */}}
{{- define "pointsman.podEnv" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end -}}

{{/* No replica goes before another one takes its place. */}}
{{- define "pointsman.strategy" -}}
type: RollingUpdate
rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
{{- end -}}

{{/* Probes of a program of ours: health has a port of its own, in plaintext. With the service that readiness is of: a standby
is ready too, or no update would end and no node be drained; gateways ask the picker itself who serves. */}}
{{- define "pointsman.probes" -}}
readinessProbe: {grpc: {port: 9003{{ with . }}, service: {{ . }}{{ end }}}, periodSeconds: 2, timeoutSeconds: 2}
livenessProbe: {grpc: {port: 9003, service: liveness}, periodSeconds: 10, timeoutSeconds: 5}
{{- end -}}
