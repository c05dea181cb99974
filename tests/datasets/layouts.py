"""Every dataset's layout on disk in miniature, exactly as its authors unpack it."""

import pickle

import numpy as np
from PIL import Image


def picture(path, kind=0, size=(20, 16), **options):
    """Save a picture whose colour depends on its kind, so that its class can be learnt."""
    generator = np.random.default_rng(sum(map(ord, path.name)))
    colour = np.random.default_rng(kind).integers(40, 216, 3)
    noise = generator.integers(-30, 31, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((colour + noise).astype(np.uint8)).save(path, **options)


def landmark(split, number):
    """An id of 16 hexadecimal digits, as GLDv2 gives them."""
    return f"{ {'train': 0x1A, 'index': 0x2B, 'test': 0x3C}[split] + number * 0x1001:016x}"[::-1]


def gldv2(root):
    """Four training landmarks; index of 9; queries Private, Public, Ignored and without answer."""

    def place(split, name):
        return root / split / name[0] / name[1] / name[2] / f"{name}.jpg"

    clean = ["landmark_id,images"]
    for kind in range(4):
        names = [landmark("train", 10 * kind + each) for each in range(3)]
        clean.append(f"{kind * 100},{' '.join(names)}")
        for name in names:
            picture(place("train", name), kind)
    index = [landmark("index", number) for number in range(9)]
    for number, name in enumerate(index):
        picture(place("index", name), 10 + number // 3)
    solution = ["id,images,Usage"]
    for number, usage in enumerate(["Private", "Private", "Public", "Ignored", "Private"]):
        name = landmark("test", number)
        right = " ".join(index[3 * number : 3 * number + 3]) or "None"
        right = "None" if usage == "Ignored" else right
        solution.append(f"{name},{right},{usage}")
        picture(place("test", name), 10 + number)
    (root / "train_clean.csv").write_text("\n".join(clean) + "\n")
    (root / "index.csv").write_text("\n".join(["id", *index]) + "\n")
    (root / "retrieval_solution_v2.1.csv").write_text("\n".join(solution) + "\n")
    return index


def revisited(root, name, distractors=0):
    """Three buildings of four views each; three queries, the last without an easy answer."""
    names = [f"building_{number:06d}" for number in range(12)]
    queries = [f"query_{number:06d}" for number in range(3)]
    for number, image in enumerate(names):
        picture(root / "jpg" / f"{image}.jpg", number // 4)
    truth = []
    for kind, image in enumerate(queries):
        picture(root / "jpg" / f"{image}.jpg", kind, size=(40, 30))
        first = 4 * kind
        easy = [] if kind == 2 else [first]
        truth.append(
            {
                "bbx": [3.4, 2.6, 30.5, 20.2],
                "easy": np.array(easy, dtype=np.int64),
                "hard": [first + 1, first + 2],
                "junk": [first + 3],
            }
        )
    content = {"imlist": names, "qimlist": queries, "gnd": truth}
    (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return content


def revisitop1m(root, count=2):
    """Distractors, listed with their extension."""
    names = [f"{number:02d}/{number:04d}.jpg" for number in range(count)]
    for name in names:
        picture(root / "revisitop1m" / "jpg" / name, 77)
    (root / "revisitop1m" / "revisitop1m.txt").write_text("\n".join(names) + "\n")


def market1501(root):
    """Four people train; two are searched in two cameras, among a distractor and a stray box."""
    for kind in range(4):
        for frame in range(3):
            name = f"{kind + 2:04d}_c{frame % 2 + 1}s1_{frame:06d}_01.jpg"
            picture(root / "bounding_box_train" / name, kind, size=(8, 16))
    for kind in (11, 12):
        picture(root / "query" / f"{kind:04d}_c1s1_000001_00.jpg", kind, size=(8, 16))
        for camera in (1, 2, 3):
            name = f"{kind:04d}_c{camera}s1_000002_01.jpg"
            picture(root / "bounding_box_test" / name, kind, size=(8, 16))
    picture(root / "bounding_box_test" / "0000_c1s1_000151_01.jpg", 90, size=(8, 16))
    picture(root / "bounding_box_test" / "-1_c3s2_000001_00.jpg", 91, size=(8, 16))
    (root / "bounding_box_test" / "Thumbs.db").write_bytes(b"\0")


def cub(root):
    """Classes 1, 2, 3, 4, 99, 100 train; 101, 102 and 200 are searched; three birds each."""
    images, labels, number = [], [], 0
    for kind in (1, 2, 3, 4, 99, 100, 101, 102, 200):
        for each in range(3):
            number += 1
            path = f"{kind:03d}.Bird_{kind}/Bird_{kind}_{each:04d}.jpg"
            images.append(f"{number} {path}")
            labels.append(f"{number} {kind}")
            picture(root / "images" / path, kind)
    (root / "images.txt").write_text("\n".join(images) + "\n")
    (root / "image_class_labels.txt").write_text("\n".join(labels) + "\n")


def sop(root):
    """Four articles train, three are searched; paths below the super-class's folder."""
    number = 0
    for file, kinds in (("Ebay_train.txt", range(1, 5)), ("Ebay_test.txt", range(11_319, 11_322))):
        lines = ["image_id class_id super_class_id path"]
        for kind in kinds:
            for each in range(3):
                number += 1
                path = f"chair_final/{kind}_{each}.JPG"
                lines.append(f"{number} {kind} 4 {path}")
                picture(root / path, kind, format="JPEG")
        (root / file).write_text("\n".join(lines) + "\n")


def inshop(root, folder="Img/"):
    """Four items train; two are asked for among three."""
    lines = ["", "image_name item_id evaluation_status"]
    statuses = [("train", range(4)), ("query", range(4, 6)), ("gallery", range(4, 7))]
    for status, kinds in statuses:
        for kind in kinds:
            for each in range(1 if status == "query" else 3):
                name = f"img/WOMEN/Dresses/id_{kind:08d}/{each:02d}_{status}.jpg"
                lines.append(f"{name:<60} id_{kind:08d}     {status}")
                picture(root / folder / name, kind)
    lines[0] = str(len(lines) - 2)
    (root / "Eval").mkdir(parents=True)
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def folder(root, classes=8, each=3):
    """Class folders with a hidden file and a text beside the images."""
    for kind in range(classes):
        for number in range(each):
            picture(root / f"class {kind}" / f"image-{number}.png", kind)
    (root / "class 0" / "notes.txt").write_text("not an image")
    (root / "class 0" / ".hidden.png").write_bytes(b"not an image")


def folder_classes(root):
    """A training and a validation split of class folders, as ImageNet is unpacked."""
    for split, each in (("train", 4), ("val", 2)):
        for kind in range(4):
            for number in range(each):
                picture(root / split / f"n{kind:08d}" / f"{split}_{number}.JPEG", kind)


def csv(root, columns=("path", "label"), rows=None):
    """A table beside its images."""
    if rows is None:
        rows = [(f"photos/{kind}-{n}.jpg", f"kind {kind}") for kind in range(8) for n in range(3)]
    for path, label, *_ in rows:
        picture(root / path, sum(map(ord, label)))
    lines = [",".join(columns), *(",".join(row) for row in rows)]
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def items(root, columns=("id", "label"), rows=None):
    """A table of items that nobody can look at."""
    if rows is None:
        rows = [(f"text {kind}-{n}", f"kind {kind}") for kind in range(8) for n in range(3)]
    root.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(row) for row in rows)]
    (root / "items.csv").write_text("\n".join(lines) + "\n")
    return root / "items.csv"
