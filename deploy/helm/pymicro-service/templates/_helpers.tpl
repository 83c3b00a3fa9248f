{{/* The service's name as labels carry it: what they forbid becomes _. (pymicro/nodes/keys.py) */}}
{{- define "pymicro.key" -}}
{{- regexReplaceAll "[^-A-Za-z0-9_.]" .Values.service "_" -}}
{{- end }}

{{/* The name of the Deployment, the container and the account. */}}
{{- define "pymicro.object" -}}
{{- .Values.name | default (regexReplaceAll "[^a-z0-9]+" (include "pymicro.key" . | lower) "-" | trimAll "-") -}}
{{- end }}

{{/* The label app.kubernetes.io/name: the service's name, if that is valid there. */}}
{{- define "pymicro.app" -}}
{{- $key := include "pymicro.key" . -}}
{{- regexMatch "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$" $key | ternary $key (include "pymicro.object" .) -}}
{{- end }}

{{- define "pymicro.version" -}}
{{- .Values.version | default .Values.image.tag | default "latest" -}}
{{- end }}

{{- define "pymicro.image" -}}
{{- $repository := .Values.image.repository | default (include "pymicro.object" .) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default (include "pymicro.version" .)) -}}
{{- end -}}
{{- end }}

{{/* What belongs to this release of the service. */}}
{{- define "pymicro.selector" -}}
app.kubernetes.io/name: {{ include "pymicro.app" . | toJson }}
app.kubernetes.io/instance: {{ .Release.Name | toJson }}
{{- end }}

{{- define "pymicro.labels" -}}
{{ include "pymicro.selector" . }}
app.kubernetes.io/version: {{ include "pymicro.version" . | toJson }}
app.kubernetes.io/managed-by: {{ .Release.Service | toJson }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | toJson }}
{{- end }}

{{/* The account of the pods; empty if they need none. */}}
{{- define "pymicro.account" -}}
{{- if .Values.account.name -}}
{{- .Values.account.name -}}
{{- else if or .Values.calls (eq .Values.mode "patch") .Values.account.annotations .Values.tls.way -}}
{{- include "pymicro.object" . -}}
{{- end -}}
{{- end }}

{{/* A setting of pymicro as a variable. Numbers as JSON has them: Go prints a million as 1e+06. */}}
{{- define "pymicro.setting" -}}
- name: {{ printf "MICRO_%s" (upper .name) }}
  value: {{ kindIs "string" .value | ternary .value (toJson .value) | toJson }}
{{- end }}

{{/* The port by which clients know it: that of plain text, as long as there is one. */}}
{{- define "pymicro.callPort" -}}
{{- and .Values.tls.way .Values.tls.plainPort | default .Values.port | int -}}
{{- end }}

{{/* The Secret with the pods' certificates. */}}
{{- define "pymicro.secret" -}}
{{- $named := eq .Values.tls.way "secret" | ternary .Values.tls.from "" -}}
{{- $named | default (printf "%s-tls" (include "pymicro.object" .)) -}}
{{- end }}

{{/* The settings that say where the certificates are, as an object. */}}
{{- define "pymicro.tlsSettings" -}}
{{- $found := dict -}}
{{- if .Values.tls.way -}}
{{- if eq .Values.tls.way "podcertificate" -}}
{{- $_ := set $found "tls_bundle" "/etc/pymicro/tls/bundle.pem" -}}
{{- $_ := set $found "tls_ca" "/etc/pymicro/tls/ca.pem" -}}
{{- else -}}
{{- $_ := set $found "tls_dir" "/etc/pymicro/tls" -}}
{{- end -}}
{{- if .Values.tls.plainPort -}}
{{- $_ := set $found "tls_plain_address" (printf "0.0.0.0:%d" (int .Values.tls.plainPort)) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* What a probe asks: a path of the admin port, or a name of grpc.health.v1 where there is none. */}}
{{- define "pymicro.probe" -}}
{{- if .port -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
{{- else -}}
grpc:
  port: {{ .grpc }}
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- end -}}
{{- end }}

{{/* What the schema cannot say in words that help. */}}
{{- define "pymicro.check" -}}
{{- if not .Values.service -}}
{{- fail "service is not set: it is the name under which clients call the service, as in client.channel(\"greeter\")" -}}
{{- end -}}
{{- if not (regexMatch "^[ -~]+$" .Values.service) -}}
{{- fail (printf "service: %q has letters that are not ASCII, which this chart cannot write into labels: take `pymicro manifest`" .Values.service) -}}
{{- end -}}
{{- $key := include "pymicro.key" . -}}
{{- if gt (len $key) 54 -}}
{{- fail (printf "service: %q has %d bytes; as a pod's label it may have 54" .Values.service (len $key)) -}}
{{- end -}}
{{- if not (regexMatch "[A-Za-z0-9]$" $key) -}}
{{- fail (printf "service: %q does not end in a letter or digit, as a pod's label must" .Values.service) -}}
{{- end -}}
{{- $version := include "pymicro.version" . -}}
{{- if not (regexMatch "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" $version) -}}
{{- fail (printf "version: %q cannot be a label (at most 63 letters, digits, - _ and ., with a letter or digit at both ends)" $version) -}}
{{- end -}}
{{- $object := include "pymicro.object" . -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" $object) -}}
{{- fail (printf "name: %q cannot be the name of a Deployment (at most 63 small letters, digits and -, with a letter or digit at both ends)" $object) -}}
{{- end -}}
{{- with .Values.tls }}
{{- if and (not .way) (or .from .plainPort) -}}
{{- fail "tls.way is not set: it says where the certificates come from, and tls.from and tls.plainPort belong to it" -}}
{{- end -}}
{{- if .way -}}
{{- $name := "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?" -}}
{{- if and (eq .way "cert-manager") (not (regexMatch (printf "^((Cluster)?Issuer/)?%s$" $name) .from)) -}}
{{- fail (printf "tls.from: %q is neither the name of an Issuer of cert-manager nor ClusterIssuer/NAME" .from) -}}
{{- end -}}
{{- if and (eq .way "secret") .from (not (regexMatch (printf "^%s$" $name) .from)) -}}
{{- fail (printf "tls.from: %q is no name of a Secret" .from) -}}
{{- end -}}
{{- if and (eq .way "podcertificate") (not (regexMatch "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.:]*$" .from)) -}}
{{- fail (printf "tls.from: %q is no name of a signer, such as example.com/workloads" .from) -}}
{{- end -}}
{{- if eq (int .plainPort) (int $.Values.port) -}}
{{- fail (printf "tls.plainPort: %d is `port` too, where it speaks TLS; each needs a port of its own" (int .plainPort)) -}}
{{- end -}}
{{- if and $.Values.adminPort (eq (int .plainPort) (int $.Values.adminPort)) -}}
{{- fail (printf "tls.plainPort: %d is `adminPort` too; each needs a port of its own" (int .plainPort)) -}}
{{- end -}}
{{- if not (or $.Values.adminPort .plainPort) -}}
{{- fail "adminPort is 0, and the kubelet's probes of health speak no TLS: give it one" -}}
{{- end -}}
{{- range $setting := list "tls_dir" "tls_bundle" "tls_cert" "tls_key" "tls_ca" "tls_plain_address" -}}
{{- if hasKey $.Values.settings $setting -}}
{{- fail (printf "settings.%s: tls.way says where the certificates are; leave one out" $setting) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.adminPort (eq (int .Values.adminPort) (int .Values.port)) -}}
{{- fail (printf "adminPort: %d is `port` too; each needs a port of its own" (int .Values.port)) -}}
{{- end -}}
{{- end }}
