"""Drives an OpenStack cloud with openstacksdk: openstack_sdk.py AUTH_URL USER PASSWORD PROJECT"""
import hashlib, os, sys, tempfile, uuid

import openstack
from keystoneauth1 import session
from keystoneauth1.identity import v3

AUTH, USER, PASSWORD, PROJECT = sys.argv[1:5]
MARK = "sdk-" + uuid.uuid4().hex


def connect(**auth):
    return openstack.connection.Connection(
        region_name="RegionOne",
        identity_api_version="3", auth=dict(auth_url=AUTH, **auth.pop("auth")), **auth)


def password():
    return connect(auth=dict(username=USER, password=PASSWORD, project_name=PROJECT,
                             user_domain_name="Default", project_domain_name="Default"))


def expect(wanted, function):
    try:
        function()
    except wanted:
        return
    raise AssertionError(f"no {wanted.__name__}")


def cycle(cloud, disk_format="raw", container_format="bare", size=3_000_000):
    """Creates, uploads, downloads, compares, lists and deletes one image."""
    data = os.urandom(size)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        image = cloud.image.create_image(
            MARK, filename=file.name, disk_format=disk_format, container_format=container_format,
            wait=True, tags=["one"], properties={"os_distro": "debian"}, min_disk=1)
    image = cloud.image.get_image(image.id)
    assert image.status == "active", image
    assert image.size == size and image.checksum == hashlib.md5(data).hexdigest(), image
    assert image.hash_algo == "sha512" and image.hash_value == hashlib.sha512(data).hexdigest()
    assert image.os_distro == "debian" and image.tags == ["one"], image
    got = cloud.image.download_image(image, stream=True)
    digest = hashlib.sha256()
    for block in got.iter_content(65536):
        digest.update(block)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    assert cloud.image.find_image(MARK).id == image.id
    image = cloud.image.update_image(image, name=MARK + "-b", os_version="13")
    assert image.name == MARK + "-b" and image.os_version == "13"
    cloud.image.add_tag(image, "two")
    cloud.image.remove_tag(image, "one")
    assert cloud.image.get_image(image.id).tags == ["two"]
    cloud.image.deactivate_image(image)
    assert cloud.image.get_image(image.id).status == "deactivated"
    cloud.image.reactivate_image(image)
    cloud.image.delete_image(image, ignore_missing=False)
    expect(openstack.exceptions.NotFoundException, lambda: cloud.image.get_image(image.id))


def chunked(cloud, size=2_000_000):
    """Data that comes from a generator travels in chunks, with no length declared."""
    data = os.urandom(size)
    image = cloud.image.create_image(MARK, disk_format="raw", container_format="bare")
    image.data = (data[at:at + 70_000] for at in range(0, size, 70_000))
    assert image.upload(cloud.image).status_code == 204
    image = cloud.image.get_image(image.id)
    assert image.status == "active" and image.size == size, image
    assert image.hash_value == hashlib.sha512(data).hexdigest()
    assert cloud.image.download_image(image).content == data
    # Once only.
    image.data = b"again"
    assert image.upload(cloud.image).status_code == 409
    cloud.image.delete_image(image, ignore_missing=False)


def tags(cloud):
    image = cloud.image.create_image(MARK, disk_format="raw", container_format="bare", tags=["a", "b c"])
    cloud.image.add_tag(image, "d.e")
    cloud.image.remove_tag(image, "a")
    assert sorted(cloud.image.get_image(image.id).tags) == ["b c", "d.e"]
    assert [one.id for one in cloud.image.images(tag="b c", name=MARK)] == [image.id]
    cloud.image.delete_image(image, ignore_missing=False)


def logins(cloud):
    """A token that is handed on, one without a scope, and the scopes of an administrator."""
    token = cloud.session.get_token()
    exchanged = connect(auth_type="v3token", auth=dict(
        token=token, project_name=PROJECT, project_domain_name="Default"))
    assert exchanged.current_project_id == cloud.current_project_id
    list(exchanged.image.images(limit=1))
    unscoped = session.Session(auth=v3.Password(
        AUTH, username=USER, password=PASSWORD, user_domain_name="Default", unscoped=True))
    assert unscoped.auth.get_access(unscoped).project_id is None
    for scope in (dict(system_scope="all"), dict(domain_name="Default"),
                  dict(project_name="admin", project_domain_name="Default")):
        admin = connect(auth=dict(username="admin", password=PASSWORD, user_domain_name="Default",
                                  **scope))
        access = admin.session.auth.get_access(admin.session)
        assert access.system_scoped == ("system_scope" in scope)
        assert access.domain_scoped == ("domain_name" in scope), scope
        assert access.project_scoped == ("project_name" in scope), scope
        assert admin.session.get_endpoint(service_type="identity", interface="public")
    # A name without its domain is nobody.
    expect(Exception, connect(auth=dict(username="nobody", password=PASSWORD, project_name=PROJECT,
                                        user_domain_name="Default",
                                        project_domain_name="Default")).authorize)


def pages(cloud):
    made = [cloud.image.create_image(f"{MARK}-{n}", allow_duplicates=True, disk_format="raw",
                                     container_format="ovf", mark=MARK).id for n in range(7)]
    seen = [image.id for image in cloud.image.images(limit=2, mark=MARK)]
    assert sorted(seen) == sorted(made), (seen, made)
    names = [image.name for image in cloud.image.images(limit=3, mark=MARK, sort="name:asc")]
    assert names == sorted(names) and len(names) == 7, names
    for image in made:
        cloud.image.delete_image(image, ignore_missing=False)


def errors(cloud):
    image = cloud.image.create_image(MARK, disk_format="vhd", container_format="bare")
    # A fixed VHD has nothing at the start that tells it.
    image.data = b"\0" * 4096
    assert image.upload(cloud.image).status_code == 415
    assert cloud.image.get_image(image.id).status == "queued"
    protected = cloud.image.update_image(image, is_protected=True)
    expect(openstack.exceptions.ForbiddenException, lambda: cloud.image.delete_image(protected))
    cloud.image.update_image(protected, is_protected=False)
    cloud.image.delete_image(image)
    wrong = connect(auth=dict(username=USER, password="wrong", project_name=PROJECT,
                              user_domain_name="Default", project_domain_name="Default"))
    expect(Exception, wrong.authorize)


def main():
    cloud = password()
    cycle(cloud)
    cycle(cloud, "vhd", "ovf")
    chunked(cloud)
    tags(cloud)
    logins(cloud)
    pages(cloud)
    errors(cloud)
    made = cloud.identity.create_application_credential(cloud.current_user_id, MARK)
    bound = connect(auth_type="v3applicationcredential", auth=dict(
        application_credential_id=made.id, application_credential_secret=made.secret))
    assert bound.current_project_id == cloud.current_project_id
    cycle(bound)
    cloud.identity.delete_application_credential(cloud.current_user_id, made)
    print("openstacksdk is content")


if __name__ == "__main__":
    main()
