package sbom

import "testing"

// The recipe is the same for whoever runs the gateway, so that replicas share SBOMs.
func TestRecipeOfAnotherUser(t *testing.T) {
	t.Setenv("HOME", "/home/one")
	_, one, err := Recipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", "/home/two")
	t.Setenv("GOPATH", "/home/two/elsewhere")
	if _, two, _ := Recipe(); two != one {
		t.Errorf("%s and %s", one, two)
	}
}
