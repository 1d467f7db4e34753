# Sourced by the scripts that run in the test cluster: how they wait, how they start Weir, what they put load on.
# The script says before: nothing; and gets: root, weir, work, namespace, log.

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
script=${0##*/tests/}
[[ -n ${WEIR_RIG_NETNS:-} ]] || { echo "$script: run me in the test cluster: tests/cluster/run -- tests/$script" >&2; exit 2; }
work=$(mktemp -d)
log=$work/weir.log
started=()
trap 'for one in "${started[@]}"; do kill -KILL "$one" 2>/dev/null && wait "$one" 2>/dev/null || true; done; rm -rf "$work"' EXIT
namespace=weir-${script##*/}
k() { kubectl --namespace "$namespace" "$@"; }

fail() {
  echo "$script: $1" >&2
  local file
  for file in "$work"/*.log; do
    [[ -s $file ]] && { echo "--- the end of ${file##*/}" >&2; tail -n 25 "$file" >&2; }
  done
  exit 1
}
said() { echo "$script: $1"; }

# soon SECONDS WHAT COMMAND…: asks until the command succeeds.
soon() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "$what did not happen"
    sleep 0.1
  done
}

# ---- Weir ------------------------------------------------------------------------------------------------------------

weir=${WEIR_BIN:-}
for built in release debug; do [[ -z $weir && -x $root/target/$built/weir ]] && weir=$root/target/$built/weir; done
[[ -x $weir ]] || { echo "$script: there is no binary; build it, or set WEIR_BIN" >&2; exit 2; }

# The service account of deploy/kubernetes with its rights, and a kubeconfig of it in $work/kubeconfig.
account() {
  local server
  kubectl apply -f "$root/deploy/kubernetes/00-namespace.yaml" -f "$root/deploy/kubernetes/rbac.yaml" \
    -f "$root/deploy/kubernetes/ingress-class.yaml" >/dev/null
  kubectl get crd gatewayclasses.gateway.networking.k8s.io >/dev/null 2>&1 &&
    kubectl apply -f "$root/deploy/kubernetes/gateway-api" >/dev/null
  server=$(kubectl config view --minify --raw -o jsonpath='{.clusters[0].cluster.server}')
  kubectl config view --minify --raw -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d >"$work/ca.crt"
  kubectl --namespace weir create token weir --duration=2h >"$work/token"
  cat >"$work/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: rig, cluster: {server: "$server", certificate-authority: $work/ca.crt}}]
users: [{name: weir, user: {tokenFile: $work/token}}]
contexts: [{name: weir, context: {cluster: rig, user: weir, namespace: weir}}]
current-context: weir
YAML
}

# start NAME ADDRESS FLAG…: Weir at ports 80, 443 and 9900 (or $admin) of ADDRESS, by the account's kubeconfig (or
# $kubeconfig), its log in $work/NAME.log, its process in $pid.
start() {
  local name=$1 address=$2 variables
  shift 2
  # The rig's variables begin as Weir's settings do.
  mapfile -t variables < <(compgen -e WEIR_ | sed 's/^/--unset=/')
  env "${variables[@]}" "KUBECONFIG=${kubeconfig:-$work/kubeconfig}" "$weir" run --kubernetes \
    --http "$address:80" --https "$address:443" --admin "${admin:-$address:9900}" --workers 1 --log-format text "$@" >"$work/$name.log" 2>&1 &
  pid=$!
  started+=("$pid")
}
status() { curl -s -o /dev/null -w '%{http_code}' --max-time 2 "$@" || true; }
ready() { [[ $(status "http://$1:9900/readyz") == 200 ]]; }
metric() { curl -s --max-time 2 "http://$1:9900/metrics" | sed -n "s/^$2 //p"; }

# ended PID SECONDS WHAT: the process has ended within the time.
ended() {
  local end=$((SECONDS + $2))
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS < end)) || fail "$3 has not ended after $2 s"
    sleep 0.1
  done
}

# ---- the cluster -----------------------------------------------------------------------------------------------------

# hold COMPONENT: ends it and keeps it down until released.
hold() {
  touch "$WEIR_RIG_HOLD/$1"
  kill -KILL "$(cat "$WEIR_RIG_PIDS/$1")"
  unnoticed() { [[ ! -e $WEIR_RIG_PIDS/$1 ]]; }
  soon 20 "the end of $1" unnoticed "$1"
}
release() { rm "$WEIR_RIG_HOLD/$1"; }
server_answers() { kubectl get --raw /readyz >/dev/null 2>&1; }

# application NAME REPLICAS: a Deployment of echoes that name the Service, and the Service.
application() {
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1, namespace: $namespace}
spec:
  replicas: $2
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
        - name: echo
          image: registry.k8s.io/gateway-api/echo-basic:v1
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
            - {name: SERVICE_NAME, value: $1}
          ports: [{containerPort: 3000}]
          readinessProbe: {httpGet: {path: /health, port: 3000}, periodSeconds: 1}
          lifecycle: {preStop: {exec: {command: [sleep, "3"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: $namespace}
spec: {selector: {app: $1}, ports: [{port: 80, targetPort: 3000}]}
---
YAML
}
endpoints() { k get endpointslices -l "kubernetes.io/service-name=$1" -o jsonpath='{range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{"\n"}{end}' | grep -c . || true; }
have() { [[ $(endpoints "$1") == "$2" ]]; }

# ingress NAME SERVICE: NAME.example.com to the Service.
ingress() {
  cat <<YAML
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: $1, namespace: $namespace}
spec:
  ingressClassName: weir
  rules: [{host: $1.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: $2, port: {number: 80}}}}]}}]
---
YAML
}
# served ADDRESS HOST SERVICE
served() { [[ $(curl -s --max-time 5 -H "Host: $2" "http://$1/") == *"\"service\": \"$3\""* ]]; }

# ---- load ------------------------------------------------------------------------------------------------------------

# begin NAME FLAG…: load until `finish NAME`; see drive/main.go.
declare -A loads
begin() {
  local name=$1
  shift
  "$WEIR_RIG_DRIVE" load "$@" >"$work/load.$name" 2>"$work/load.$name.failed" &
  loads[$name]=$!
  started+=($!)
}
# finish NAME WHAT: ends the load; nothing may have failed.
finish() {
  kill -TERM "${loads[$1]}"
  wait "${loads[$1]}" || fail "$2: $(cat "$work/load.$1" "$work/load.$1.failed")"
  said "$2: $(sed 's/^load: //' "$work/load.$1")"
}
