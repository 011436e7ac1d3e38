{{/*
The manifests are those that kustomize uses (manifests/ links to docker/kubernetes), with what values.yaml changes.
*/}}

{{/* Text of a manifest with the names of this release. Arguments: root, path. */}}
{{- define "svd-service.text" -}}
{{- $values := .root.Values -}}
{{- $tag := .root.Chart.AppVersion -}}
{{- .root.Files.Get .path
  | replace "image: svd-service-api\n" (printf "image: %s:%s\n" $values.images.api.repository (default $tag $values.images.api.tag))
  | replace "image: svd-service-worker\n" (printf "image: %s:%s\n" $values.images.worker.repository (default $tag $values.images.worker.tag))
  | replace "name: svd-secrets\n" (printf "name: %s\n" $values.secret)
  | replace "secretName: redis-users\n" (printf "secretName: %s\n" $values.redis.users)
  | replace "kubernetes.io/metadata.name: ingress-nginx\n" (printf "kubernetes.io/metadata.name: %s\n" $values.networkPolicies.ingress)
  | replace "kubernetes.io/metadata.name: monitoring\n" (printf "kubernetes.io/metadata.name: %s\n" $values.networkPolicies.monitoring)
  | replace "serverAddress: http://prometheus.monitoring.svc:9090\n" (printf "serverAddress: %s\n" $values.autoscaling.prometheus)
  | replace "namespace=\"svd-service\"" (printf "namespace=\"%s\"" .root.Release.Namespace) -}}
{{- end -}}

{{/* Whether an object is part of this release. Arguments: root, object. */}}
{{- define "svd-service.wanted" -}}
{{- $kind := .object.kind -}}
{{- $off := or (and (eq $kind "ScaledObject") (not .root.Values.autoscaling.enabled))
  (and (eq $kind "NetworkPolicy") (not .root.Values.networkPolicies.enabled)) -}}
{{- if not $off }}yes{{ end -}}
{{- end -}}

{{/* Numbers of pods of a Deployment or ScaledObject. Arguments: root, object, minimum, maximum. */}}
{{- define "svd-service.scale" -}}
{{- if eq .object.kind "ScaledObject" -}}
{{- $_ := set .object.spec "minReplicaCount" (int .minimum) -}}
{{- $_ := set .object.spec "maxReplicaCount" (int .maximum) -}}
{{- else if and (eq .object.kind "Deployment") (not .root.Values.autoscaling.enabled) -}}
{{- $_ := set .object.spec "replicas" (int .minimum) -}}
{{- end -}}
{{- end -}}
