"""The YAML that `pymicro manifest` prints, as templates.

Text and not objects, because the comments are for whoever keeps the manifests. A
test holds them to the files of deploy/, which are the same for the greeter.
"""

from __future__ import annotations

from string import Template
from typing import Final

__all__ = ["ADMISSION_POLICY", "DEPLOYMENT", "DISCOVERY", "DISRUPTION_BUDGET", "SELF_REGISTER"]

# ${namespace} is nothing, or a line `namespace: …` of metadata; ${of_namespace} the same
# for the subject of a role binding.

DISCOVERY: Final = Template("""\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: pymicro-client${namespace}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: pymicro-discovery${namespace}
rules:
  # list and watch, and nothing else: a client keeps its own copy of the pods that
  # carry a service's label. RBAC knows no labels, so the rule is for all pods of
  # the namespace; no secrets are in a pod object unless somebody writes them there.
  - apiGroups: [""]
    resources: [pods]
    verbs: [list, watch]
  # With MICRO_REGISTRY=endpointslice this takes its place:
  #   - apiGroups: [discovery.k8s.io]
  #     resources: [endpointslices]
  #     verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: pymicro-discovery${namespace}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: pymicro-discovery
subjects:
  - kind: ServiceAccount
    name: pymicro-client${of_namespace}
""")

SELF_REGISTER: Final = Template("""\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: pymicro-self-register${namespace}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: pymicro-self-register${namespace}
rules:
  # list and watch as in deploy/rbac: such a server sees its own pod, and may be a
  # client besides. patch cannot be limited to "my own pod" by RBAC, and lets its
  # holder relabel any pod of the namespace or change its image: the admission
  # policy sets the limit.
  - apiGroups: [""]
    resources: [pods]
    verbs: [list, watch, patch]
  # No such thing exists: this marks whoever has the role, and the policy asks for
  # it. A role of your own that grants patch for this purpose needs this rule too.
  - apiGroups: [micro.mu]
    resources: [pods]
    verbs: [self-register]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: pymicro-self-register${namespace}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: pymicro-self-register
subjects:
  - kind: ServiceAccount
    name: pymicro-self-register${of_namespace}
""")

ADMISSION_POLICY: Final = Template("""\
# A self-registering pod may change its own pod only, there only the label and
# annotation of its own services, and nothing else.
#
# Its own services are those of the annotation micro.mu/self-register (a list with
# commas) of the pod's template; without it, the one of app.kubernetes.io/name. The
# policy keeps the pod from changing either.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: pymicro-self-register
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      # A patch arrives as UPDATE. Of `pods` itself: subresources are no business of
      # the role's.
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [UPDATE]
        resources: [pods]
  matchConditions:
    # Kubelets, people and, by the second condition, controllers never meet the policy.
    - name: service-accounts
      expression: request.userInfo.username.startsWith('system:serviceaccount:')
    - name: with-the-role
      expression: >-
        authorizer.group('micro.mu').resource('pods').namespace(request.namespace)
        .check('self-register').allowed()
    # Who may do everything (a deployer bound to cluster-admin) has that right too,
    # by its wildcard; the role itself never grants update.
    - name: with-no-more-than-the-role
      expression: >-
        !authorizer.group('').resource('pods').namespace(request.namespace).check('update').allowed()
  variables:
    - name: services
      expression: >-
        oldObject.metadata.?annotations[?'micro.mu/self-register'].hasValue()
        ? oldObject.metadata.annotations['micro.mu/self-register'].split(',').map(name, name.trim())
        : [oldObject.metadata.?labels[?'app.kubernetes.io/name'].orValue('')]
    - name: labels
      expression: "['micro.mu/type'] + variables.services.map(name, 'micro.mu/selector-' + name)"
    - name: annotations
      expression: variables.services.map(name, 'micro.mu/service-' + name)
    - name: newLabels
      expression: object.metadata.?labels.orValue({})
    - name: oldLabels
      expression: oldObject.metadata.?labels.orValue({})
    - name: newAnnotations
      expression: object.metadata.?annotations.orValue({})
    - name: oldAnnotations
      expression: oldObject.metadata.?annotations.orValue({})
  validations:
    # Only a token that kubelet mounted says in which pod it is; the uid, so that a
    # successor of the same name (a StatefulSet's) is another pod.
    - expression: >-
        request.userInfo.extra[?'authentication.kubernetes.io/pod-name'].orValue([]) == [object.metadata.name]
        && request.userInfo.extra[?'authentication.kubernetes.io/pod-uid'].orValue([])
        == [string(object.metadata.uid)]
        && request.userInfo.username.startsWith('system:serviceaccount:' + request.namespace + ':')
      reason: Forbidden
      messageExpression: >-
        'a self-registering pod changes its own pod only, and this is ' + object.metadata.name
    - expression: object.spec == oldObject.spec
      reason: Forbidden
      message: a self-registering pod changes nothing in spec
    - expression: >-
        object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences
        && object.metadata.?finalizers == oldObject.metadata.?finalizers
        && object.metadata.?generateName == oldObject.metadata.?generateName
      reason: Forbidden
      message: a self-registering pod changes nothing in metadata but labels and annotations
    - expression: >-
        variables.newLabels.all(key, key in variables.labels
          ? variables.newLabels[key] == 'service'
          : variables.oldLabels[?key] == optional.of(variables.newLabels[key]))
        && variables.oldLabels.all(key, key in variables.labels || key in variables.newLabels)
      reason: Forbidden
      messageExpression: >-
        'a self-registering pod changes no label but ' + variables.labels.join(', ')
        + ', and these to: service'
    - expression: >-
        variables.newAnnotations.all(key, key in variables.annotations
          || variables.oldAnnotations[?key] == optional.of(variables.newAnnotations[key]))
        && variables.oldAnnotations.all(key, key in variables.annotations || key in variables.newAnnotations)
      reason: Forbidden
      messageExpression: >-
        'a self-registering pod changes no annotation but ' + variables.annotations.join(', ')
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: pymicro-self-register
spec:
  policyName: pymicro-self-register
  validationActions: [Deny]
""")

DEPLOYMENT: Final = Template("""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${object}${namespace}
  labels:
    app.kubernetes.io/name: ${app}
    app.kubernetes.io/version: ${version}
spec:
  replicas: ${replicas}
  selector:
    matchLabels:
      app.kubernetes.io/name: ${app}
  strategy:
    rollingUpdate:
      # A new pod is ready before an old one is stopped.
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
${pod_metadata}
    spec:
${account}
      enableServiceLinks: false
      # drain_delay ${drain_delay} (clients elsewhere see it leave) + stop_grace ${stop_grace} (calls
      # finish) + 5s to spare.
      terminationGracePeriodSeconds: ${grace}
      securityContext:
        runAsNonRoot: true
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: ${container}
          image: ${image}
          workingDir: /app
          command: [python, -m, pymicro, run, ${target}]
          env:
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            - name: POD_IP
              valueFrom:
                fieldRef:
                  fieldPath: status.podIP
            # Empty where the cluster does not label pods with it (Kubernetes before 1.35).
            - name: MICRO_ZONE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.labels['topology.kubernetes.io/zone']
            - name: MICRO_REGISTRY
              value: kubernetes
            - name: MICRO_REGISTRY_ADVERTISE
              value: ${mode}${more_env}
          ports:
            # By this name clients find the port.
            - name: grpc
              containerPort: ${port}
          startupProbe:
            grpc:
              port: ${port}
            periodSeconds: 1
            timeoutSeconds: 1
            failureThreshold: 60
          readinessProbe:
            grpc:
              port: ${port}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 2
          livenessProbe:
            grpc:
              port: ${port}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          resources:
            requests:
              cpu: 50m
              memory: 128Mi
            # No limit of cpu: throttled at a burst, it would be slow and fail its probes.
            limits:
              memory: 256Mi
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 64Mi
""")

DISRUPTION_BUDGET: Final = Template("""\
# Drains of cluster nodes take one pod at a time.
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: ${object}${namespace}
  labels:
    app.kubernetes.io/name: ${app}
    app.kubernetes.io/version: ${version}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: ${app}
""")
