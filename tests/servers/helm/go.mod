// Builds the helm that the tests of the chart run: an ordinary release, from its module.
module sluice/tests/servers/helm

go 1.26.0

tool helm.sh/helm/v3/cmd/helm

require helm.sh/helm/v3 v3.22.0
