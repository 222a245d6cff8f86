{{/* What the schema cannot say: values that only together are wrong. Each names the value and the mend. */}}
{{- define "pointsman.check" -}}
{{- if not (or .Values.picker.enabled .Values.extensionServer.enabled) -}}
{{- fail "nothing is enabled: set picker.enabled or extensionServer.enabled" -}}
{{- end -}}
{{- if and .Values.metrics.auth .Values.monitoring.podMonitor.enabled -}}
{{- fail "metrics.auth needs a token, which no PodMonitor can show: set monitoring.serviceMonitor.enabled instead" -}}
{{- end -}}
{{- range $label, $_ := .Values.commonLabels -}}
{{- if has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component") -}}
{{- fail (printf "commonLabels: %s is what the release's own selectors go by" $label) -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- range .Values.pools -}}
{{- if hasKey $names .name -}}{{- fail (printf "pools: the name %q is there twice" .name) -}}{{- end -}}
{{- $_ := set $names .name true -}}
{{- if and .route (ne $.Values.mode "gateway") -}}
{{- fail (printf "pools: %s.route needs mode gateway; in standalone mode Envoy sends everything to the pool" .name) -}}
{{- end -}}
{{- if and (ne (toString .create) "false") (not .selector) -}}
{{- fail (printf "pools: %s.selector is missing: the labels of the pool's pods, or set create=false for a pool that is there" .name) -}}
{{- end -}}
{{- end -}}
{{- if .Values.picker.enabled -}}
{{- if and (eq .Values.mode "standalone") (ne (len .Values.pools) 1) -}}
{{- fail "standalone mode serves one pool: set pools to exactly one entry" -}}
{{- end -}}
{{- if and (eq .Values.mode "standalone") (ne .Values.tls.mode "selfSigned") -}}
{{- fail "tls is for mode gateway: in standalone mode Envoy asks the picker within their pod" -}}
{{- end -}}
{{- if and (eq .Values.picker.haMode "leader") (or (eq .Values.mode "standalone") (not (has .Values.provider (list "envoy-gateway" "none")))) -}}
{{- fail "picker.haMode=leader needs a gateway that asks pickers for their health: provider envoy-gateway, or none" -}}
{{- end -}}
{{- if eq .Values.mode "gateway" -}}
{{- if and .Values.poolNamespace (ne .Values.poolNamespace .Release.Namespace) -}}
{{- fail "poolNamespace is for mode standalone: a pool names a picker of its own namespace, so install the release there" -}}
{{- end -}}
{{- if and .Values.tls.clientCaSecret (ne .Values.provider "none") -}}
{{- fail "tls.clientCaSecret is for provider none: other gateways show pickers no certificate" -}}
{{- end -}}
{{- if and .Values.tls.clientCaSecret (eq .Values.tls.mode "disabled") -}}
{{- fail "tls.clientCaSecret needs TLS: set another tls.mode" -}}
{{- end -}}
{{- if and (eq .Values.provider "envoy-gateway") (has .Values.tls.mode (list "certManager" "secret")) (not .Values.tls.ca) (not .Values.tls.caConfigMap) -}}
{{- fail "the extension server asks no picker that it cannot verify: set tls.ca or tls.caConfigMap" -}}
{{- end -}}
{{- if and (eq .Values.tls.mode "certManager") (not .Values.tls.certManager.issuerRef) -}}
{{- fail "tls.mode=certManager needs tls.certManager.issuerRef" -}}
{{- end -}}
{{- if and (eq .Values.tls.mode "secret") (not .Values.tls.secret.name) -}}
{{- fail "tls.mode=secret needs tls.secret.name" -}}
{{- end -}}
{{- if and (eq .Values.provider "envoy-gateway") (eq .Values.tls.mode "disabled") -}}
{{- fail "provider envoy-gateway asks pickers over TLS alone: set another tls.mode" -}}
{{- end -}}
{{- if and .Values.tls.ca (eq .Values.tls.mode "selfSigned") -}}
{{- fail "tls.ca is for tls.mode certManager and secret: with selfSigned the picker publishes its own" -}}
{{- end -}}
{{- if and .Values.tls.ca .Values.tls.caConfigMap -}}
{{- fail "tls.ca and tls.caConfigMap say the same: set one of them" -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.picker.serviceAccount.create) (not .Values.picker.serviceAccount.name) -}}
{{- fail "picker.serviceAccount.create=false needs picker.serviceAccount.name" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.extensionServer.enabled (not .Values.extensionServer.serviceAccount.create) (not .Values.extensionServer.serviceAccount.name) -}}
{{- fail "extensionServer.serviceAccount.create=false needs extensionServer.serviceAccount.name" -}}
{{- end -}}
{{- end -}}
