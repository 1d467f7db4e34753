{{- define "weir.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "weir.fullname" -}}
{{- $name := include "weir.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "weir.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "weir.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "weir.image" -}}
{{- with .Values.controller.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The settings as weir.yaml: controller.config, and what other values imply. */}}
{{- define "weir.settings" -}}
{{- $settings := deepCopy .Values.controller.config -}}
{{- if .Values.controller.scope.namespaces -}}
{{- $provider := merge (dict "namespaces" .Values.controller.scope.namespaces) ($settings.provider | default dict) -}}
{{- $_ := set $settings "provider" $provider -}}
{{- end -}}
{{- if $settings -}}{{- toYaml $settings -}}{{- end -}}
{{- end -}}

{{/* The Lease of the release: of two releases in one namespace each writes what is its own. */}}
{{- define "weir.lease" -}}
{{- $provider := .Values.controller.config.provider | default dict -}}
{{- $provider.lease | default (printf "%s-controller" (include "weir.fullname" .)) -}}
{{- end -}}

{{/* The Service that leads here, where it gets an address of its own, can be seen, and the settings name no other. */}}
{{- define "weir.published" -}}
{{- with .Values.controller -}}
{{- if and .service.enabled (eq .service.type "LoadBalancer") (not .config.status) (or (not .scope.namespaces) (has $.Release.Namespace .scope.namespaces)) -}}
{{ $.Release.Namespace }}/{{ include "weir.fullname" $ }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether there are several pods, so that one may be kept from being evicted. Budgets are not kept of DaemonSets. */}}
{{- define "weir.several" -}}
{{- with .Values.controller -}}
{{- if and (eq .kind "Deployment") (or (gt (int .replicaCount) 1) (and .autoscaling.enabled (gt (int .autoscaling.minReplicas) 1))) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rights within namespaces. */}}
{{- define "weir.rules.namespaced" -}}
# Secrets: those of type kubernetes.io/tls, and ca.crt of Opaque ones. A rule cannot say so.
- {apiGroups: [""], resources: [services, secrets, configmaps], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [get, list, watch]}
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, listenersets, httproutes, grpcroutes, tlsroutes, tcproutes, udproutes, backendtlspolicies, referencegrants]
  verbs: [get, list, watch]
# What Weir writes, by the replica that holds the Lease: statuses, and Events about them.
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]}
- apiGroups: [gateway.networking.k8s.io]
  resources:
    - gateways/status
    - listenersets/status
    - httproutes/status
    - grpcroutes/status
    - tlsroutes/status
    - tcproutes/status
    - udproutes/status
    - backendtlspolicies/status
  verbs: [patch]
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
{{- if .Values.rbac.write }}
# Annotations that tell of a cutover, and for each Gateway a Service with its labels, annotations and addresses.
- {apiGroups: [""], resources: [services], verbs: [create, patch, delete]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [create, patch, delete]}
{{- end }}
{{- end -}}

{{/* Rights to what has no namespace. */}}
{{- define "weir.rules.cluster" -}}
- {apiGroups: [""], resources: [namespaces], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingressclasses], verbs: [get, list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses], verbs: [get, list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses/status], verbs: [patch]}
# Which version of the Gateway API is installed.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [gatewayclasses.gateway.networking.k8s.io]
  verbs: [get]
{{- end -}}
