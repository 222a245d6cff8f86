{{/* The picker's arguments. */}}
{{- define "pointsman.pickerArgs" -}}
- serve
{{- if eq (len .Values.pools) 1 }}
- "--pool-name={{ (first .Values.pools).name }}"
{{- else }}
- --all-pools
{{- end }}
{{- with .Values.poolNamespace }}
- "--pool-namespace={{ . }}"
{{- end }}
- --lease-name={{ include "pointsman.fullname" . }}
- "--ha-mode={{ .Values.picker.haMode }}"
- "--drain-timeout={{ .Values.picker.drain.timeoutSeconds }}s"
- {{ printf "--log=%s" .Values.picker.log | quote }}
{{- with .Values.picker.bindAddress }}
- {{ printf "--bind-address=%s" . | quote }}
{{- end }}
{{- if eq .Values.mode "standalone" }}
- --secure-serving=false
- "--ext-proc-address={{ .Values.standalone.pickerAddress }}"
- "--eds-address={{ .Values.standalone.pickerAddress }}:9005"
{{- else if eq .Values.tls.mode "selfSigned" }}
- --service-name={{ include "pointsman.fullname" . }}
{{- else if eq .Values.tls.mode "disabled" }}
- --secure-serving=false
{{- else }}
- --cert-path=/etc/pointsman/tls
{{- end }}
{{- if and .Values.tls.clientCaSecret (eq .Values.mode "gateway") }}
- --client-ca-path=/etc/pointsman/client-ca/ca.crt
{{- end }}
{{- if .Values.picker.server }}
- --config=/etc/pointsman/config/pointsman.yaml
{{- end }}
{{- if .Values.metrics.auth }}
- --metrics-auth
{{- end }}
{{- range .Values.picker.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* The Secret that holds the picker's certificate, where it is brought. */}}
{{- define "pointsman.tlsSecret" -}}
{{- if eq .Values.tls.mode "certManager" -}}{{ include "pointsman.fullname" . }}-tls
{{- else if eq .Values.tls.mode "secret" -}}{{ .Values.tls.secret.name }}
{{- end -}}
{{- end -}}

{{/* Volumes as `name: source`, mounts as `name: path`. */}}
{{- define "pointsman.pickerVolumes" -}}
{{- if and (eq .Values.mode "gateway") (include "pointsman.tlsSecret" .) }}
- {name: tls, secret: {secretName: {{ include "pointsman.tlsSecret" . }}}}
{{- end }}
{{- if and .Values.tls.clientCaSecret (eq .Values.mode "gateway") }}
- {name: client-ca, secret: {secretName: {{ .Values.tls.clientCaSecret }}}}
{{- end }}
{{- if .Values.picker.server }}
- {name: config, configMap: {name: {{ include "pointsman.fullname" . }}-config}}
{{- end }}
{{- if eq .Values.mode "standalone" }}
- {name: envoy, emptyDir: {sizeLimit: 16Mi}}
{{- end }}
{{- with .Values.picker.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pointsman.pickerMounts" -}}
{{- if and (eq .Values.mode "gateway") (include "pointsman.tlsSecret" .) }}
- {name: tls, mountPath: /etc/pointsman/tls, readOnly: true}
{{- end }}
{{- if and .Values.tls.clientCaSecret (eq .Values.mode "gateway") }}
- {name: client-ca, mountPath: /etc/pointsman/client-ca, readOnly: true}
{{- end }}
{{- if .Values.picker.server }}
- {name: config, mountPath: /etc/pointsman/config, readOnly: true}
{{- end }}
{{- with .Values.picker.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
